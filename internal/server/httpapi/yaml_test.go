// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
)

var plainYAML = regexp.MustCompile(`^[A-Za-z/][A-Za-z0-9_/{}. ()-]*$`)

// yaml writes a document of objects, lists, strings, numbers and booleans: all
// that an OpenAPI document is made of.
func yaml(b *strings.Builder, indent string, v any) {
	switch v := v.(type) {
	case object:
		if len(v) == 0 {
			b.WriteString(" {}\n")
			return
		}
		b.WriteString("\n")
		for _, m := range v {
			b.WriteString(indent + scalar(m.name) + ":")
			yaml(b, indent+"  ", m.value)
		}
	case []any:
		if len(v) == 0 {
			b.WriteString(" []\n")
			return
		}
		b.WriteString("\n")
		for _, item := range v {
			b.WriteString(indent + "-")
			yaml(b, indent+"  ", item)
		}
	case json.RawMessage: // JSON is YAML
		b.WriteString(" " + string(v) + "\n")
	case string:
		b.WriteString(" " + scalar(v) + "\n")
	default:
		fmt.Fprintf(b, " %v\n", v)
	}
}

func scalar(s string) string {
	switch {
	case !plainYAML.MatchString(s), strings.HasSuffix(s, " "), s == "null", s == "true", s == "false":
		return string(mustJSON(s)) // a JSON string is a YAML string
	}
	return s
}
