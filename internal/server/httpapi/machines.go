// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"context"

	"staunch/api"
	"staunch/internal/server/device"
	"staunch/internal/server/odata"
)

func (h *Handler) machines(ctx context.Context, q *request) (answer, error) {
	now := h.cfg.Now()
	oq, err := query[api.Machine](q, h.cfg.DeviceFields(now))
	if err != nil {
		return answer{}, err
	}
	return list(q, oq, "Machines", func(oq odata.Query) ([]device.Device, int64, error) {
		return h.cfg.Devices.Machines(ctx, q.caller, oq)
	}, func(d device.Device) api.Machine { return device.Machine(d, now) })
}

func (h *Handler) machine(ctx context.Context, q *request) (answer, error) {
	d, err := h.cfg.Devices.Find(ctx, q.caller, q.args["id"])
	if err != nil {
		return answer{}, err
	}
	m := device.Machine(d, h.cfg.Now())
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
	d, err := h.cfg.Devices.Enroll(ctx, r, hostname(q.RemoteAddr))
	if err != nil {
		return answer{}, err
	}
	welcome := h.cfg.Welcome()
	welcome.DeviceID = d.ID
	return answer{body: welcome}, nil
}
