// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"testing"
)

// TestMain becomes the process that is killed, when TestKill starts it so.
func TestMain(m *testing.M) {
	if dir := os.Getenv("STAUNCH_JOURNAL_CHILD"); dir != "" {
		child(dir)
	}
	os.Exit(m.Run())
}

// child appends from several goroutines, says what was kept, and compacts.
func child(dir string) {
	j, _, err := Open(dir, Config{Device: device})
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	base, _ := strconv.Atoi(os.Getenv("STAUNCH_JOURNAL_BASE"))
	var out sync.Mutex
	for w := range 4 {
		go func() {
			for i := 0; ; i++ {
				n := base + i*4 + w
				if err := j.Append(record(n)); err != nil {
					fmt.Println("error", err)
					os.Exit(1)
				}
				out.Lock()
				fmt.Println(n)
				out.Unlock()
			}
		}()
	}
	for {
		if err := j.Rewrite(func(r []Record) []Record { return r }); err != nil {
			fmt.Println("error", err)
			os.Exit(1)
		}
	}
}

// TestKill kills a process that appends and compacts, at whatever instant, and
// finds every record that was answered for, once.
func TestKill(t *testing.T) {
	dir := t.TempDir()
	kept := map[int]bool{}
	for round := range 12 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "STAUNCH_JOURNAL_CHILD="+dir, fmt.Sprintf("STAUNCH_JOURNAL_BASE=%d", round*1_000_000))
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for i := 0; lines.Scan(); i++ {
			n, err := strconv.Atoi(lines.Text())
			if err != nil {
				t.Fatal(lines.Text())
			}
			kept[n] = true
			if i == 3+round*7 {
				_ = cmd.Process.Kill() // what it still printed is read to the end
			}
		}
		_ = cmd.Wait() // killed
		j, records, err := Open(dir, Config{Device: device})
		if err != nil {
			t.Fatal(err)
		}
		seen := map[int]int{}
		for _, r := range records {
			var d struct{ N int }
			if err := json.Unmarshal(r.Data, &d); err != nil {
				t.Fatal(err)
			}
			seen[d.N]++
		}
		for n := range kept {
			if seen[n] == 0 {
				t.Fatalf("round %d: record %d was answered for and is gone", round, n)
			}
		}
		for n, times := range seen {
			if times > 1 {
				t.Fatalf("round %d: record %d is there %d times", round, n, times)
			}
			kept[n] = true
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
