// SPDX-License-Identifier: Apache-2.0

// Command bench measures the real server and agent on this machine and prints
// each figure beside the sum of its unavoidable parts, or beside what other
// tools need, measured in the same run. It judges nothing: what a figure means
// depends on the machine and on who else uses it.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"staunch/client"
	"staunch/test/rig"
)

// bench is one run.
type bench struct {
	orders int           // per case
	load   time.Duration // how long orders are sent for throughput
	idle   time.Duration // how long an agent without work is watched
	rows   int           // of the largest table that lists are read from
	best   bool
	only   string // sections, separated by commas; "" is all
	dir    string
	disk   string // the devices' disk
	kind   string // of file system that is
	bin    string
	server *rig.Server
	client *client.Client
	undo   []func()
	floor  floor
}

func main() {
	if len(os.Args) == 4 && os.Args[1] == measureArg { // this program, in another mount namespace
		measureHere(os.Args[2], os.Args[3])
		return
	}
	if len(os.Args) == 3 && os.Args[1] == gapArg { // likewise, in another control group
		ended := make(chan os.Signal, 1)
		signal.Notify(ended, syscall.SIGTERM)
		if err := innocent(ended, os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
		return
	}
	b := &bench{}
	flag.IntVar(&b.orders, "orders", 20, "orders per case; figures are their medians")
	flag.DurationVar(&b.load, "load", 10*time.Second, "for how long orders are sent by 64 callers")
	flag.DurationVar(&b.idle, "idle", 60*time.Second, "for how long an agent without work is watched")
	flag.IntVar(&b.rows, "rows", 1_000_000, "how many actions the largest table has that lists are read from, 100000 times a power of ten; 10000000 takes 35 GB of disk for a while, and ten minutes")
	flag.BoolVar(&b.best, "best", false, "print the best figure of several orders and not the median: what it takes when nobody else uses the machine")
	flag.StringVar(&b.only, "only", "", "the sections to measure, separated by commas; none: all of "+sectionNames())
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := b.run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func (b *bench) run(ctx context.Context) error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("containment is measured as root; this is uid %d", os.Geteuid())
	}
	if err := b.checkSections(); err != nil {
		return err
	}
	defer func() {
		for _, undo := range slices.Backward(b.undo) {
			undo()
		}
	}()
	if err := b.setUp(ctx); err != nil {
		return err
	}
	b.head()
	var failed []string
	for _, s := range sections {
		if b.only != "" && s.name != "floor" && !slices.Contains(strings.Split(b.only, ","), s.name) {
			continue
		}
		if err := s.measure(b, ctx); err != nil && (s.name == "floor" || ctx.Err() != nil) {
			return fmt.Errorf("%s: %w", s.name, err)
		} else if err != nil {
			fmt.Printf("  FAILED: %v\n\n", err)
			failed = append(failed, s.name)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	if len(failed) > 0 {
		return fmt.Errorf("these sections have failed: %s", strings.Join(failed, ", "))
	}
	return nil
}

// sections are what is measured, in this order. The floor is part of every run.
var sections = []struct {
	name    string
	measure func(*bench, context.Context) error
}{
	{"floor", (*bench).measureFloor},
	{"orders", (*bench).latency},
	{"pause", (*bench).pause},
	{"load", (*bench).throughput},
	{"reads", (*bench).reads},
	{"lists", (*bench).lists},
	{"gate", (*bench).gate},
	{"search", (*bench).search},
	{"index", (*bench).index},
	{"seal", (*bench).seal},
	{"idle", (*bench).idleAgent},
}

func sectionNames() string {
	var names []string
	for _, s := range sections {
		names = append(names, s.name)
	}
	return strings.Join(names, ",")
}

func (b *bench) checkSections() error {
	for name := range strings.SplitSeq(b.only, ",") {
		if name != "" && !slices.Contains(strings.Split(sectionNames(), ","), name) {
			return fmt.Errorf("there is no section %q; there are %s", name, sectionNames())
		}
	}
	return nil
}

func (b *bench) setUp(ctx context.Context) (err error) {
	if b.dir, err = os.MkdirTemp("", "staunch-bench-"); err != nil {
		return err
	}
	b.undo = append(b.undo, func() { _ = os.RemoveAll(b.dir) }) // scratch
	if err := b.makeDisk(ctx); err != nil {
		return err
	}
	var remove func()
	if b.bin, remove, err = rig.Build(); err != nil {
		return err
	}
	b.undo = append(b.undo, remove)
	b.server = &rig.Server{Program: filepath.Join(b.bin, "staunch"), Data: filepath.Join(b.dir, "server")}
	if err := b.server.Start(); err != nil {
		return err
	}
	b.undo = append(b.undo, func() { _ = b.server.Process.End(syscall.SIGTERM) }) // the figures are out
	var ignored struct{}
	for _, s := range [][2]string{{"limits.perMinute", "1000000"}, {"limits.perHour", "10000000"}} {
		if err := b.server.Admin(ctx, &ignored, "settings", "set", s[0], s[1]); err != nil {
			return err
		}
	}
	b.client, _, err = b.server.Client(ctx, "bench")
	return err
}

// makeDisk makes the devices' disk: ext4 in a file where that can be, so that
// its syncs are real ones, else a tmpfs.
func (b *bench) makeDisk(ctx context.Context) error {
	b.disk = filepath.Join(b.dir, "disk")
	image := filepath.Join(b.dir, "disk.img")
	if err := os.Mkdir(b.disk, 0o755); err != nil { //nolint:gosec // as a disk is
		return err
	}
	make4 := fmt.Sprintf("truncate -s 6G %[1]q && mkfs.ext4 -q -F %[1]q && mount -o loop %[1]q %[2]q", image, b.disk)
	if exec.CommandContext(ctx, "sh", "-c", make4).Run() == nil {
		b.kind = "ext4 in a file"
		b.undo = append(b.undo, func() { _ = exec.Command("umount", "-l", b.disk).Run() }) // scratch
		return nil
	}
	own, undo, err := rig.MountDisk(b.disk)
	if err == nil && !own {
		err = fmt.Errorf("cannot mount a scratch disk: only that one may be gated")
	}
	if err != nil {
		return err
	}
	b.kind = "tmpfs (its syncs cost nothing)"
	b.undo = append(b.undo, undo)
	return nil
}

// device enrolls and starts an agent; stop ends it.
func (b *bench) device(ctx context.Context, name string, args ...string) (a *rig.Agent, stop func() error, err error) {
	a = &rig.Agent{Program: filepath.Join(b.bin, "staunch-agent"), State: filepath.Join(b.dir, name), Disk: b.disk, Args: args}
	if err := a.Enroll(ctx, b.server); err != nil {
		return nil, nil, err
	}
	if err := a.Start(ctx, true); err != nil {
		return nil, nil, err
	}
	p := a.Process
	b.undo = append(b.undo, func() {
		if !p.Ended() {
			_ = p.End(syscall.SIGKILL) // a run that failed
		}
	})
	return a, func() error { return p.End(syscall.SIGTERM) }, nil
}

func (b *bench) head() {
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	load, _ := os.ReadFile("/proc/loadavg")
	fmt.Printf("staunch bench, %s: %d cores, kernel %s, Go %s, load before %s\n", time.Now().UTC().Format("2006-01-02 15:04 MST"),
		runtime.NumCPU(), strings.TrimSpace(string(kernel)), runtime.Version(), strings.Join(strings.Fields(string(load))[:3], " "))
	fmt.Printf("server, agent, programs and this share the machine; the devices' disk is %s; times in ms\n\n", b.kind)
}

// quantile of durations, which it sorts.
func quantile(d []time.Duration, q float64) time.Duration {
	if len(d) == 0 {
		return 0
	}
	slices.Sort(d)
	return d[min(len(d)-1, int(q*float64(len(d))))]
}

// middle is the median, or the best if that was asked for.
func (b *bench) middle(d []time.Duration) time.Duration {
	if b.best {
		return quantile(d, 0)
	}
	return median(d)
}

func (b *bench) which() string {
	if b.best {
		return "best"
	}
	return "medians"
}

func median(d []time.Duration) time.Duration { return quantile(d, 0.5) }

func ms(d time.Duration) string { return fmt.Sprintf("%.1f", d.Seconds()*1000) }

func ratio(have, floor time.Duration) string {
	if floor <= 0 {
		return "-"
	}
	return fmt.Sprintf("%.1fx", have.Seconds()/floor.Seconds())
}
