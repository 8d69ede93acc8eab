// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"context"
	"net/http"

	"staunch/api"
)

// status is what the probes get when all is well.
type status struct {
	Status string `json:"status"`
}

func (h *Handler) healthz(context.Context, *request) (answer, error) {
	return answer{body: status{"ok"}}, nil
}

func (h *Handler) readyz(ctx context.Context, _ *request) (answer, error) {
	if h.cfg.Ready != nil {
		if err := h.cfg.Ready(ctx); err != nil {
			// Anybody may ask: the cause is for the log.
			h.cfg.Log.Error("not_ready", "error", err)
			return answer{}, api.Errorf(api.ServiceUnavailable, "The server is not ready.")
		}
	}
	return answer{body: status{"ready"}}, nil
}

func (h *Handler) openapi(context.Context, *request) (answer, error) {
	return answer{raw: h.document, kind: "application/json"}, nil
}

// link hands a device's connection to the gateway, which challenges it.
func (h *Handler) link() http.Handler { return h.cfg.Link }
