// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"io"
	"strings"

	"github.com/alecthomas/kong"
)

// Completion writes a completion script for the shell: bash, zsh or fish. It
// knows the commands and flags of this version; nothing is asked at run time.
func Completion(w io.Writer, app *kong.Application, shell string) error {
	words := map[string][]string{} // command path → what may follow
	collect(app.Node, app.Name, words)
	switch shell {
	case "bash", "zsh":
		if shell == "zsh" {
			fmt.Fprintln(w, "autoload -U +X bashcompinit && bashcompinit")
		}
		name := strings.ReplaceAll(app.Name, "-", "_")
		fmt.Fprintf(w, "_%s() {\n  local path=%q w i\n  for ((i = 1; i < COMP_CWORD; i++)); do\n    w=${COMP_WORDS[i]}\n    case \"$path $w\" in\n", name, app.Name)
		for path := range words {
			fmt.Fprintf(w, "      %q) path=\"$path $w\" ;;\n", path)
		}
		fmt.Fprint(w, "    esac\n  done\n  case \"$path\" in\n")
		for path, next := range words {
			fmt.Fprintf(w, "    %q) COMPREPLY=($(compgen -W %q -- \"${COMP_WORDS[COMP_CWORD]}\")) ;;\n", path, strings.Join(next, " "))
		}
		fmt.Fprintf(w, "  esac\n}\ncomplete -o default -F _%s %s\n", name, app.Name)
	case "fish":
		for path, next := range words {
			seen := strings.Fields(path)[1:]
			cond := "__fish_use_subcommand"
			if len(seen) > 0 {
				cond = "__fish_seen_subcommand_from " + seen[len(seen)-1]
			}
			for _, n := range next {
				if flag, ok := strings.CutPrefix(n, "--"); ok {
					fmt.Fprintf(w, "complete -c %s -n %q -l %s\n", app.Name, cond, flag)
				} else {
					fmt.Fprintf(w, "complete -c %s -n %q -f -a %s\n", app.Name, cond, n)
				}
			}
		}
	default:
		return &Coded{Usage, fmt.Errorf("cannot complete for shell %q: there are bash, zsh and fish", shell)}
	}
	return nil
}

func collect(n *kong.Node, path string, words map[string][]string) {
	var next []string
	for _, c := range n.Children {
		if !c.Hidden {
			next = append(next, c.Name)
			collect(c, path+" "+c.Name, words)
		}
	}
	for _, group := range n.AllFlags(true) {
		for _, f := range group {
			next = append(next, "--"+f.Name)
		}
	}
	words[path] = next
}
