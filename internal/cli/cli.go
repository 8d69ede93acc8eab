// SPDX-License-Identifier: Apache-2.0

// Package cli is what the two command lines share: how they print, what their
// exit codes mean, and how errors look. Answers go to standard output, progress
// and errors to standard error; progress is shown on a terminal only.
package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"

	"golang.org/x/term"
)

// The exit codes of every command.
const (
	OK        = 0
	Failure   = 1 // something went wrong; the message says what
	Usage     = 2 // the command line is wrong
	NotProven = 3 // the order ended otherwise than proven
	Refused   = 4 // the server refused; the message has its code
)

// Coded is an error with an exit code of its own.
type Coded struct {
	Code int
	Err  error
}

func (c *Coded) Error() string { return c.Err.Error() }
func (c *Coded) Unwrap() error { return c.Err }

// Hinted is an error with advice.
type Hinted struct {
	Err  error
	Hint string // what to do next
}

func (h *Hinted) Error() string { return h.Err.Error() }
func (h *Hinted) Unwrap() error { return h.Err }

// Exit prints err, if any, and returns the code to exit with.
func Exit(program string, asJSON bool, err error) int {
	if err == nil {
		return OK
	}
	code := Failure
	var coded *Coded
	if errors.As(err, &coded) {
		code = coded.Code
	}
	var hinted *Hinted
	hint := ""
	if errors.As(err, &hinted) {
		hint = hinted.Hint
	}
	if asJSON {
		_ = json.NewEncoder(os.Stderr).Encode(struct { // nowhere left to report to
			Error string `json:"error"`
			Hint  string `json:"hint,omitempty"`
			Code  int    `json:"exitCode"`
		}{err.Error(), hint, code})
		return code
	}
	fmt.Fprintf(os.Stderr, "%s: error: %v\n", program, err)
	if hint != "" {
		fmt.Fprintf(os.Stderr, "%s: hint: %s\n", program, hint)
	}
	return code
}

// Output is where a command's answer goes.
type Output struct {
	JSON bool
	W    io.Writer // standard output
}

// Print writes v as JSON, or what text prints.
func (o Output) Print(v any, text func(w io.Writer)) error {
	if o.JSON {
		e := json.NewEncoder(o.W)
		e.SetEscapeHTML(false)
		return e.Encode(v)
	}
	text(o.W)
	return nil
}

// Table writes rows in columns under a head.
func Table(w io.Writer, head []string, rows [][]string) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, strings.Join(head, "\t"))
	for _, r := range rows {
		fmt.Fprintln(t, strings.Join(r, "\t"))
	}
	_ = t.Flush() // standard output; a failure shows at the caller's shell
}

// Progress writes a line to standard error when that is a terminal.
func Progress(format string, args ...any) {
	if term.IsTerminal(int(os.Stderr.Fd())) {
		fmt.Fprintf(os.Stderr, format+"\n", args...)
	}
}

// ReadSecret reads one line from standard input, without echo on a terminal.
func ReadSecret(prompt string) (string, error) {
	if term.IsTerminal(int(os.Stdin.Fd())) {
		fmt.Fprint(os.Stderr, prompt)
		b, err := term.ReadPassword(int(os.Stdin.Fd()))
		fmt.Fprintln(os.Stderr)
		return string(b), err
	}
	b, err := io.ReadAll(io.LimitReader(os.Stdin, 16<<10))
	if err != nil {
		return "", fmt.Errorf("cannot read the secret from standard input: %w", err)
	}
	s := strings.TrimRight(string(b), "\r\n")
	if s == "" || strings.ContainsAny(s, "\r\n") {
		return "", errors.New("cannot read the secret: standard input must hold exactly one line")
	}
	return s, nil
}
