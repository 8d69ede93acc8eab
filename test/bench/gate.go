// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"staunch/internal/agent"
	"staunch/internal/filehash"
	"staunch/internal/order"
	"staunch/test/rig"
)

// The programs that are started are small, so that the cost of asking shows.
const (
	smallSize = 8 << 10  // bytes of padding
	knownSize = 12 << 10 // as large as the denied program
)

// gate compares starting programs and opening files without anybody asking,
// with the agent's gate, and with other tools that deny by content. All files
// lie on a scratch disk; nothing else on the machine is marked.
func (b *bench) gate(ctx context.Context) error {
	point, undo, err := b.scratch(ctx)
	if err != nil {
		fmt.Printf("cost of the gate\n  SKIPPED: no scratch disk: %v\n\n", err)
		return nil
	}
	defer undo()
	denied := smallProgram(knownSize, []byte("denied :"))
	fmt.Printf("cost of the gate: start a program of %d kB and wait for its end, open a file and close it; µs, medians of %d files met once and of %d times one file\n",
		smallSize>>10, coldFiles, warmTimes)
	fmt.Printf("  %-44s %9s %9s %9s %9s | %s\n", "", "exec cold", "warm", "open cold", "warm", "more than none")
	var none costs
	for _, t := range []struct {
		name    string
		size    int
		measure func(ctx context.Context, dir string, denied []byte) (costs, error)
	}{
		{"none", smallSize, func(ctx context.Context, dir string, _ []byte) (costs, error) {
			return b.measured(ctx, dir, 0, func() {})
		}},
		{"staunch, one content denied", smallSize, b.withAgent(point)},
		{"staunch, files of the denied content's size", knownSize, b.withAgent(point)},
		{"fapolicyd, one content denied", smallSize, b.withFapolicyd},
		{"clamonacc and clamd, one content denied", smallSize, b.withClam},
	} {
		dir, err := os.MkdirTemp(point, "files-")
		if err == nil {
			err = errors.Join(os.Chmod(dir, 0o755), stock(dir, t.size, denied)) //nolint:gosec // others run what is in it
		}
		if err != nil {
			return err
		}
		c, err := t.measure(ctx, dir, denied)
		switch {
		case err == nil && t.name == "none":
			none = c
			fmt.Printf("  %-44s %s |\n", t.name, c)
		case err == nil && !c.Refused:
			fmt.Printf("  %-44s SKIPPED: it did not refuse the denied program, so its figures mean nothing\n", t.name)
		case err == nil:
			fmt.Printf("  %-44s %s | %s\n", t.name, c, c.over(none))
		case ctx.Err() != nil:
			return ctx.Err()
		default:
			fmt.Printf("  %-44s SKIPPED: %v\n", t.name, err)
		}
		_ = os.RemoveAll(dir) // scratch
	}
	fmt.Println()
	return nil
}

func us(d time.Duration) string { return fmt.Sprintf("%.1f", float64(d)/1e3) }

func (c costs) String() string {
	return fmt.Sprintf("%9s %9s %9s %9s", us(c.ExecCold), us(c.ExecWarm), us(c.OpenCold), us(c.OpenWarm))
}

func (c costs) over(n costs) string {
	return fmt.Sprintf("exec %s %s, open %s %s", ratio(c.ExecCold, n.ExecCold), ratio(c.ExecWarm, n.ExecWarm), ratio(c.OpenCold, n.OpenCold), ratio(c.OpenWarm, n.OpenWarm))
}

// scratch mounts a disk of a type that nothing else here has: fapolicyd is told
// of types.
func (b *bench) scratch(ctx context.Context) (point string, undo func(), err error) {
	point = filepath.Join(b.dir, "gated")
	image := point + ".img"
	if err := os.Mkdir(point, 0o755); err != nil { //nolint:gosec // as a disk is
		return "", nil, err
	}
	cmd := fmt.Sprintf("truncate -s 256M %[1]q && mkfs.ext2 -q -F %[1]q && mount -t ext2 -o loop %[1]q %[2]q", image, point)
	if out, err := exec.CommandContext(ctx, "sh", "-c", cmd).CombinedOutput(); err != nil {
		return "", nil, fmt.Errorf("%w: %s", err, bytes.TrimSpace(out))
	}
	return point, func() { _ = exec.Command("umount", "-l", point).Run() }, nil // scratch
}

// withAgent measures beside an agent that has contained the denied content.
func (b *bench) withAgent(point string) func(context.Context, string, []byte) (costs, error) {
	return func(ctx context.Context, dir string, denied []byte) (c costs, err error) {
		state, err := os.MkdirTemp(b.dir, "gate-")
		if err != nil {
			return c, err
		}
		a := &rig.Agent{Program: filepath.Join(b.bin, "staunch-agent"), State: state, Disk: point}
		if err := a.Start(ctx, false); err != nil {
			return c, err
		}
		defer func() { _ = a.Process.End(syscall.SIGTERM) }() // the figures are out
		r, err := agent.State{Dir: state}.Dial(ctx)
		if err != nil {
			return c, err
		}
		sum, err := filehash.Compute(bytes.NewReader(denied))
		if err != nil {
			return c, err
		}
		receipt, err := r.Contain(ctx, agent.Request{File: sum.Hash(), Comment: "bench"})
		if err != nil {
			return c, err
		}
		if receipt.Outcome != order.Proven {
			return c, fmt.Errorf("the containment ended as %s: %s", receipt.Outcome, receipt.Reason)
		}
		// It was taken; what comes back of it must be refused.
		if err := os.WriteFile(filepath.Join(dir, "denied"), denied, 0o755); err != nil { //nolint:gosec // a program
			return c, err
		}
		return b.measured(ctx, dir, 0, func() { _ = a.Process.End(syscall.SIGKILL) })
	}
}

// withFapolicyd measures inside a mount namespace of its own: fapolicyd marks
// mounts, and there is no other process in it.
func (b *bench) withFapolicyd(ctx context.Context, dir string, denied []byte) (c costs, err error) {
	program, err := installed("fapolicyd", "nsenter", "unshare")
	if err != nil {
		return c, err
	}
	conf := filepath.Join(b.dir, "fapolicyd")
	if err := os.Mkdir(conf, 0o755); err != nil { //nolint:gosec // a configuration
		return c, err
	}
	for name, text := range map[string]string{
		"fapolicyd.conf": "permissive = 0\nnice_val = 14\nq_size = 640\nuid = root\ngid = root\ndo_stat_report = 0\ndb_max_size = 50\nsubj_cache_size = 1549\n" +
			"obj_cache_size = 8191\nwatch_fs = ext2\ntrust = file\nintegrity = sha256\nsyslog_format = rule,dec,perm,exe,:,path\nallow_filesystem_mark = 0\n",
		"compiled.rules":  fmt.Sprintf("deny perm=any all : sha256hash=%x\nallow perm=any all : all\n", sha256.Sum256(denied)),
		"fapolicyd.trust": trustLine("/bin/true"),
	} {
		if err := os.WriteFile(filepath.Join(conf, name), []byte(text), 0o644); err != nil { //nolint:gosec // a configuration
			return c, err
		}
	}
	script := fmt.Sprintf("mount --bind %q /etc/fapolicyd && mkdir -p /run /var/lib/fapolicyd && mount -t tmpfs none /run && mount -t tmpfs none /var/lib/fapolicyd && mkdir -p /run/fapolicyd && exec %q --debug-deny", conf, program)
	p, err := rig.Start(conf+".log", "unshare", "-m", "--propagation", "private", "sh", "-c", script)
	if err != nil {
		return c, err
	}
	defer func() { _ = p.End(syscall.SIGKILL) }() // it needs no farewell
	ready := func() bool { return bytes.Contains([]byte(p.Tail()), []byte("Starting to listen for events")) }
	if err := waitFor(p, ready); err != nil {
		return c, err
	}
	return b.measured(ctx, dir, p.PID(), func() { _ = p.End(syscall.SIGKILL) })
}

// trustLine is a line of fapolicyd's trust file: "path size sha256".
func trustLine(path string) string {
	content, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return fmt.Sprintf("%s %d %x\n", path, len(content), sha256.Sum256(content))
}

// withClam measures beside clamonacc, which watches the one folder.
func (b *bench) withClam(ctx context.Context, dir string, denied []byte) (c costs, err error) {
	clamd, err := installed("clamd", "clamonacc")
	if err != nil {
		return c, err
	}
	clam, err := user.Lookup("clamav")
	if err != nil {
		return c, err
	}
	// Where that user may go: the bench's own folder is closed to it.
	home, err := os.MkdirTemp("", "staunch-bench-clam-")
	if err != nil {
		return c, err
	}
	defer os.RemoveAll(home) //nolint:errcheck // scratch
	uid, err1 := strconv.Atoi(clam.Uid)
	gid, err2 := strconv.Atoi(clam.Gid)
	sock, conf := filepath.Join(home, "clamd.sock"), filepath.Join(home, "clamd.conf")
	text := fmt.Sprintf("Foreground yes\nLocalSocket %s\nDatabaseDirectory %s\nUser clamav\nOnAccessIncludePath %s\nOnAccessPrevention yes\nOnAccessExcludeUname clamav\n"+
		"ScanPE no\nScanELF no\nScanOLE2 no\nScanPDF no\nScanHTML no\nScanMail no\nScanArchive no\nScanSWF no\nBytecode no\nPhishingSignatures no\n", sock, home, dir)
	err = errors.Join(err1, err2, os.WriteFile(conf, []byte(text), 0o644), //nolint:gosec // a configuration
		os.WriteFile(filepath.Join(home, "one.hsb"), fmt.Appendf(nil, "%x:%d:Bench.Denied\n", sha256.Sum256(denied), len(denied)), 0o644), //nolint:gosec // its signatures
		os.Chmod(home, 0o755), os.Chown(home, uid, gid)) //nolint:gosec // see above
	if err != nil {
		return c, err
	}
	d, err := rig.Start(filepath.Join(b.dir, "clamd.log"), clamd, "--config-file="+conf)
	if err != nil {
		return c, err
	}
	defer func() { _ = d.End(syscall.SIGKILL) }() // it has nothing to lose
	if err := waitFor(d, func() bool { _, err := os.Stat(sock); return err == nil }); err != nil {
		return c, err
	}
	o, err := rig.Start(filepath.Join(b.dir, "clamonacc.log"), "clamonacc", "--foreground", "--fdpass", "--config-file="+conf)
	if err != nil {
		return c, err
	}
	defer func() { _ = o.End(syscall.SIGKILL) }() // before clamd: without that it does not end
	if err := waitFor(o, func() bool { return errors.Is(start(filepath.Join(dir, "denied")), syscall.EPERM) }); err != nil {
		return c, err
	}
	return b.measured(ctx, dir, 0, func() { _ = o.End(syscall.SIGKILL) })
}

// installed returns the path of the first program, if all are there.
func installed(names ...string) (string, error) {
	first := ""
	for _, n := range names {
		p, err := exec.LookPath(n)
		if err != nil {
			return "", fmt.Errorf("%s is not installed", n)
		}
		if first == "" {
			first = p
		}
	}
	return first, nil
}

// waitFor waits until another tool is ready.
func waitFor(p *rig.Process, ready func() bool) error {
	err := rig.Until("it was ready", func() (bool, error) {
		if p.Ended() {
			return false, fmt.Errorf("it has ended: %s", p.Tail())
		}
		return ready(), nil
	})
	if err != nil {
		return fmt.Errorf("%w: %s", err, p.Tail())
	}
	return nil
}
