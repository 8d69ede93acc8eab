// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"context"

	"staunch/api"
	"staunch/internal/server/odata"
)

func (h *Handler) machines(ctx context.Context, q *request) (answer, error) {
	oq, err := query[api.Machine](q, h.cfg.DeviceFields(h.cfg.Now()))
	if err != nil {
		return answer{}, err
	}
	return list(q, oq, "Machines", func(oq odata.Query) ([]api.Machine, int64, error) {
		return h.cfg.Devices.Machines(ctx, q.caller, oq)
	}, func(m api.Machine) api.Machine { return m })
}

func (h *Handler) machine(ctx context.Context, q *request) (answer, error) {
	m, err := h.cfg.Devices.Machine(ctx, q.caller, q.args["id"])
	if err != nil {
		return answer{}, err
	}
	m.Context = q.base + "/api/$metadata#Machines/$entity"
	return answer{body: m}, nil
}

func (h *Handler) enroll(ctx context.Context, q *request) (answer, error) {
	f, err := q.object(false)
	if err != nil {
		return answer{}, err
	}
	r := api.EnrollRequest{Facts: f["facts"]}
	if err := f.texts(map[string]*string{"secret": &r.Secret, "publicKey": &r.PublicKey}); err != nil {
		return answer{}, err
	}
	for _, p := range []struct{ name, value string }{{"secret", r.Secret}, {"publicKey", r.PublicKey}, {"facts", string(r.Facts)}} {
		if err := missing(p.name, p.value); err != nil {
			return answer{}, err
		}
	}
	if _, err := parseObject(r.Facts); err != nil {
		return answer{}, api.Errorf(api.InvalidRequestBody, "Request body is incorrect: facts is not an object")
	}
	d, err := h.cfg.Devices.Enroll(ctx, r, clientAddress(q.RemoteAddr))
	if err != nil {
		return answer{}, err
	}
	welcome := h.cfg.Welcome()
	welcome.DeviceID = d.ID
	return answer{body: welcome}, nil
}
