// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"staunch/internal/cli"
	"staunch/internal/demo"
)

type demoCmd struct {
	Keep bool `help:"Leave everything running and in place until Ctrl-C."`
}

func (c demoCmd) Run(ctx context.Context, out cli.Output) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	agent, done, err := findAgent(ctx, self)
	if err != nil {
		return err
	}
	defer done()
	return demo.Run(ctx, demo.Config{Server: self, Agent: agent, Keep: c.Keep, Step: func(s demo.Step) {
		if out.JSON {
			_ = json.NewEncoder(out.W).Encode(s) // standard output; a failure shows at the caller's shell
			return
		}
		mark := "ok  "
		if !s.OK {
			mark = "FAIL"
		}
		fmt.Fprintf(out.W, "%s %9.1f ms  %-11s %s\n", mark, s.MS, s.Name, s.Detail)
	}})
}

// findAgent returns the agent's program: beside this one, on the PATH, or built
// from the source tree that we stand in.
func findAgent(ctx context.Context, self string) (path string, done func(), err error) {
	done = func() {}
	beside := filepath.Join(filepath.Dir(self), "staunch-agent")
	if fi, err := os.Stat(beside); err == nil && fi.Mode().IsRegular() {
		return beside, done, nil
	}
	if _, err := os.Stat("cmd/staunch-agent/main.go"); err == nil {
		dir, err := os.MkdirTemp("", "staunch-build-")
		if err != nil {
			return "", done, err
		}
		done = func() { _ = os.RemoveAll(dir) } // scratch
		path := filepath.Join(dir, "staunch-agent")
		cli.Progress("building the agent …")
		if b, err := exec.CommandContext(ctx, "go", "build", "-o", path, "./cmd/staunch-agent").CombinedOutput(); err != nil {
			done()
			return "", func() {}, fmt.Errorf("cannot build the agent: %w\n%s", err, b)
		}
		return path, done, nil
	}
	if path, err := exec.LookPath("staunch-agent"); err == nil {
		return path, done, nil
	}
	return "", done, &cli.Hinted{Err: errors.New("cannot find the agent's program"),
		Hint: "put staunch-agent beside staunch or on the PATH, or run this from the source tree"}
}
