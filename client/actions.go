// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"errors"
	"net/url"
	"strconv"
	"strings"
	"time"

	"staunch/api"
)

// Query are the options of a list under /api; zero values are left out.
type Query struct {
	Filter  string // as in status eq 'Pending'
	OrderBy string // as in lastUpdateDateTimeUtc desc
	Top     int    // at most 10,000; without it the answer has a NextLink while more remain
	Skip    int
	Count   bool
	Select  []string
}

func (q Query) values() url.Values {
	v := url.Values{}
	set := func(name, value string) {
		if value != "" {
			v.Set(name, value)
		}
	}
	set("$filter", q.Filter)
	set("$orderby", q.OrderBy)
	set("$select", strings.Join(q.Select, ","))
	if q.Top > 0 {
		set("$top", strconv.Itoa(q.Top))
	}
	if q.Skip > 0 {
		set("$skip", strconv.Itoa(q.Skip))
	}
	if q.Count {
		set("$count", "true")
	}
	return v
}

// StopAndQuarantineFile orders a machine, named by its id, DNS name or Entra
// device id, to stop a file and seal every copy of it.
func (c *Client) StopAndQuarantineFile(ctx context.Context, machine string, r api.StopAndQuarantineRequest) (api.MachineAction, error) {
	return get[api.MachineAction](c, ctx, call{method: "POST", path: "/api/machines/" + url.PathEscape(machine) + "/StopAndQuarantineFile", body: r})
}

// OtherAction asks for one of the Defender API's other device actions, by the
// last word of its path. This version of Staunch refuses them all.
func (c *Client) OtherAction(ctx context.Context, machine, name string, r api.ActionRequest) (api.MachineAction, error) {
	return get[api.MachineAction](c, ctx, call{method: "POST", path: "/api/machines/" + url.PathEscape(machine) + "/" + url.PathEscape(name), body: r})
}

// PackageURI asks where the investigation package of an action lies. No agent
// of this version collects any, so the answer is that there is none.
func (c *Client) PackageURI(ctx context.Context, id string) (api.Link, error) {
	return get[api.Link](c, ctx, call{method: "GET", path: "/api/machineactions/" + url.PathEscape(id) + "/getPackageUri"})
}

// LiveResponseResult asks where the result of a live response's command lies;
// likewise.
func (c *Client) LiveResponseResult(ctx context.Context, id string, index int) (api.Link, error) {
	path := "/api/machineactions/" + url.PathEscape(id) + "/GetLiveResponseResultDownloadLink(index=" + strconv.Itoa(index) + ")"
	return get[api.Link](c, ctx, call{method: "GET", path: path})
}

// MachineActions lists actions, newest first.
func (c *Client) MachineActions(ctx context.Context, q Query) (api.List[api.MachineAction], error) {
	return get[api.List[api.MachineAction]](c, ctx, call{method: "GET", path: "/api/machineactions", query: q.values()})
}

// MachineAction returns one action.
func (c *Client) MachineAction(ctx context.Context, id string) (api.MachineAction, error) {
	return get[api.MachineAction](c, ctx, call{method: "GET", path: "/api/machineactions/" + url.PathEscape(id)})
}

// Cancel gives an action up; the answer tells whether it is Cancelled already
// or still waits for its device.
func (c *Client) Cancel(ctx context.Context, id, comment string) (api.MachineAction, error) {
	return get[api.MachineAction](c, ctx, call{method: "POST", path: "/api/machineactions/" + url.PathEscape(id) + "/cancel", body: api.CommentRequest{Comment: comment}})
}

// Evidence returns the device's signed receipt of an action.
func (c *Client) Evidence(ctx context.Context, id string) (api.Evidence, error) {
	return get[api.Evidence](c, ctx, call{method: "GET", path: "/v1/machineactions/" + url.PathEscape(id) + "/evidence"})
}

// The pauses between two looks of Watch: short at first, for a connected device
// is done in a blink; then within what the rate limit allows. A server that
// cannot be reached, or is busy, may be back within patience.
const (
	firstPause = 50 * time.Millisecond
	lastPause  = 3 * time.Second
	patience   = time.Minute
)

// Watch looks at an action until it is final, and returns it. changed is told
// of each state that differs from the one before, the first included; nil: nobody is.
func (c *Client) Watch(ctx context.Context, id string, changed func(api.MachineAction)) (last api.MachineAction, err error) {
	answered := time.Now()
	for pause := firstPause; ; pause = min(pause*3/2, lastPause) {
		a, err := c.MachineAction(ctx, id)
		switch {
		case err == nil:
			answered = time.Now()
			if changed != nil && (a.Status != last.Status || !a.LastUpdateDateTimeUTC.Equal(last.LastUpdateDateTimeUTC.Time)) {
				changed(a)
			}
			if last = a; api.Final(a.Status) {
				return a, nil
			}
		case ctx.Err() != nil || !passing(err) || time.Since(answered) > patience:
			return last, err
		}
		if err := sleep(ctx, pause); err != nil {
			return last, err
		}
	}
}

// passing reports whether an error may be over in a moment.
func passing(err error) bool {
	var refusal *api.Error
	return !errors.As(err, &refusal) || refusal.Code == api.ServiceUnavailable || refusal.Code == api.TooManyRequests
}

func get[T any](c *Client, ctx context.Context, q call) (T, error) {
	var out T
	err := c.do(ctx, q, &out)
	return out, err
}
