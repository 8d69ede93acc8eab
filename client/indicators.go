// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"net/url"
	"strconv"

	"staunch/api"
)

// Indicators lists active indicators, newest first.
func (c *Client) Indicators(ctx context.Context, q Query) (api.List[api.Indicator], error) {
	return get[api.List[api.Indicator]](c, ctx, call{method: "GET", path: "/api/indicators", query: q.values()})
}

// Indicator returns one indicator.
func (c *Client) Indicator(ctx context.Context, id string) (api.Indicator, error) {
	return get[api.Indicator](c, ctx, call{method: "GET", path: "/api/indicators/" + url.PathEscape(id)})
}

// SubmitIndicator makes an indicator, or changes the one with the same type,
// value and device groups.
func (c *Client) SubmitIndicator(ctx context.Context, r api.IndicatorRequest) (api.Indicator, error) {
	return get[api.Indicator](c, ctx, call{method: "POST", path: "/api/indicators", body: r})
}

// ImportIndicators submits up to 500; the answer tells of each.
func (c *Client) ImportIndicators(ctx context.Context, r api.IndicatorImport) (api.IndicatorImportResult, error) {
	return get[api.IndicatorImportResult](c, ctx, call{method: "POST", path: "/api/indicators/import", body: r})
}

// DeleteIndicator deletes one indicator.
func (c *Client) DeleteIndicator(ctx context.Context, id string) error {
	return c.do(ctx, call{method: "DELETE", path: "/api/indicators/" + url.PathEscape(id)}, nil)
}

// DeleteIndicators deletes up to 500, all or none.
func (c *Client) DeleteIndicators(ctx context.Context, ids []string) error {
	return c.do(ctx, call{method: "POST", path: "/api/indicators/BatchDelete", body: api.IndicatorBatch{IndicatorIDs: ids}}, nil)
}

func filePath(hash, rest string) string { return "/api/files/" + url.PathEscape(hash) + rest }

// File returns what is on record of a file, named by SHA-1 or SHA-256.
func (c *Client) File(ctx context.Context, hash string) (api.File, error) {
	return get[api.File](c, ctx, call{method: "GET", path: filePath(hash, "")})
}

// FileStats tells how far a file has spread in the last hours; 0: 720.
func (c *Client) FileStats(ctx context.Context, hash string, hours int) (api.FileStats, error) {
	v := url.Values{}
	if hours != 0 {
		v.Set("lookBackHours", strconv.Itoa(hours))
	}
	return get[api.FileStats](c, ctx, call{method: "GET", path: filePath(hash, "/stats"), query: v})
}

// FileMachines lists the machines that met a file in the last 30 days.
func (c *Client) FileMachines(ctx context.Context, hash string, q Query) (api.List[api.Machine], error) {
	return get[api.List[api.Machine]](c, ctx, call{method: "GET", path: filePath(hash, "/machines"), query: q.values()})
}

// FileAlerts lists the alerts about a file.
func (c *Client) FileAlerts(ctx context.Context, hash string, q Query) (api.List[api.Alert], error) {
	return get[api.List[api.Alert]](c, ctx, call{method: "GET", path: filePath(hash, "/alerts"), query: q.values()})
}

// Alerts lists alerts, newest first.
func (c *Client) Alerts(ctx context.Context, q Query) (api.List[api.Alert], error) {
	return get[api.List[api.Alert]](c, ctx, call{method: "GET", path: "/api/alerts", query: q.values()})
}

// MachineAlerts lists the alerts about a machine.
func (c *Client) MachineAlerts(ctx context.Context, nameOrID string, q Query) (api.List[api.Alert], error) {
	return get[api.List[api.Alert]](c, ctx, call{method: "GET", path: machinePath(nameOrID, "/alerts"), query: q.values()})
}

// Alert returns one alert.
func (c *Client) Alert(ctx context.Context, id string) (api.Alert, error) {
	return get[api.Alert](c, ctx, call{method: "GET", path: "/api/alerts/" + url.PathEscape(id)})
}

// UpdateAlert sets an alert's status, assignment or classification, or comments on it.
func (c *Client) UpdateAlert(ctx context.Context, id string, r api.AlertUpdate) (api.Alert, error) {
	return get[api.Alert](c, ctx, call{method: "PATCH", path: "/api/alerts/" + url.PathEscape(id), body: r})
}
