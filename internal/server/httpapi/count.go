// SPDX-License-Identifier: Apache-2.0

package httpapi

import "strings"

// counted makes of list routes those that answer with the number of what the
// list would hold, as in GET /api/alerts/$count?$filter=….
func counted(rows []route) []route {
	var counts []route
	for _, r := range rows {
		if r.method != "GET" || !r.countable {
			continue
		}
		c := r
		c.path += "/$count"
		c.counts, c.countable = true, false
		c.summary = "How many " + strings.ToLower(r.summary[:1]) + r.summary[1:]
		c.summary = strings.Replace(c.summary, "How many list ", "Count ", 1)
		c.client, c.answers, c.query = "Count", int64(0), []string{"$filter"}
		counts = append(counts, c)
	}
	return counts
}
