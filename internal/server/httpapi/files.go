// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"context"
	"strconv"
	"strings"

	"staunch/api"
	"staunch/internal/filehash"
	"staunch/internal/server/auth"
	"staunch/internal/server/device"
	"staunch/internal/server/file"
	"staunch/internal/server/odata"
)

// Files is what the routes ask of what devices have met.
type Files interface {
	Info(ctx context.Context, c auth.Caller, h filehash.Hash) (file.Known, error)
	Stats(ctx context.Context, c auth.Caller, h filehash.Hash, hours int) (file.Known, error)
	Machines(ctx context.Context, c auth.Caller, h filehash.Hash, q odata.Query) ([]device.Device, int64, error)
}

// fileRoutes are the calls about files.
func fileRoutes() []route {
	read := same(auth.FileReadAll).by(auth.ViewData)
	machines := holding(perms{auth.MachineReadAll, auth.MachineReadWriteAll}, perms{auth.MachineRead, auth.MachineReadWrite}).by(auth.ViewData)
	return []route{
		{
			method: "GET", path: "/api/files/{id}", access: read, handle: (*Handler).file,
			summary: "What is on record of a file, by SHA-1 or SHA-256", client: "File", status: 200, answers: api.File{},
		},
		{
			method: "GET", path: "/api/files/{id}/stats", access: read, handle: (*Handler).fileStats,
			summary: "How far a file has spread", client: "FileStats", status: 200, answers: api.FileStats{}, query: []string{"lookBackHours"},
		},
		{
			method: "GET", path: "/api/files/{id}/machines", access: machines, handle: (*Handler).fileMachines, countable: true,
			summary: "Machines that met a file in the last 30 days", client: "FileMachines", status: 200, answers: api.List[api.Machine]{}, query: listOptions(),
		},
		{
			method: "GET", path: "/api/files/{id}/alerts", access: alertRead(), handle: (*Handler).fileAlerts, countable: true,
			summary: "Alerts about a file", client: "FileAlerts", status: 200, answers: api.List[api.Alert]{}, query: listOptions(),
		},
	}
}

// fileOf reads the hash in the path. What is none names no file.
func (q *request) fileOf() (filehash.Hash, error) {
	h, err := filehash.Parse(q.args["id"])
	if err != nil {
		return h, api.Errorf(api.ResourceNotFound, "File %s was not found", clip(q.args["id"]))
	}
	return h, nil
}

func (h *Handler) file(ctx context.Context, q *request) (answer, error) {
	hash, err := q.fileOf()
	if err != nil {
		return answer{}, err
	}
	k, err := h.cfg.Files.Info(ctx, q.caller, hash)
	if err != nil {
		return answer{}, err
	}
	prevalence := int64(k.Devices)
	return answer{body: api.File{
		Context: q.base + "/api/$metadata#Files/$entity", SHA1: k.Sum.SHA1.String(), SHA256: k.Sum.SHA256.String(),
		GlobalPrevalence: &prevalence, GlobalFirstObserved: api.At(k.First), GlobalLastObserved: api.At(k.Last), Size: &k.Sum.Size,
		DeterminationType: "Unknown",
	}}, nil
}

func (h *Handler) fileStats(ctx context.Context, q *request) (answer, error) {
	hash, err := q.fileOf()
	if err != nil {
		return answer{}, err
	}
	values, err := odata.Split(q.URL.RawQuery)
	if err != nil {
		return answer{}, err
	}
	hours := 0
	for name := range values {
		if strings.EqualFold(name, "lookBackHours") && values.Get(name) != "" {
			if hours, err = strconv.Atoi(values.Get(name)); err != nil || hours == 0 {
				return answer{}, api.Errorf(api.InvalidInput, "Invalid input %s for lookBackHours: want a number from 1 to 720", clip(values.Get(name)))
			}
		}
	}
	k, err := h.cfg.Files.Stats(ctx, q.caller, hash, hours)
	if err != nil {
		return answer{}, err
	}
	count := strconv.Itoa(k.Devices)
	names := k.Names
	if names == nil {
		names = []string{}
	}
	return answer{body: api.FileStats{
		Context: q.base + "/api/$metadata#microsoft.windowsDefenderATP.api.InOrgFileStats", SHA1: k.Sum.SHA1.String(),
		OrgPrevalence: count, OrganizationPrevalence: int64(k.Devices), OrgFirstSeen: api.At(k.First), OrgLastSeen: api.At(k.Last),
		GlobalPrevalence: count, GloballyPrevalence: int64(k.Devices), GlobalFirstObserved: api.At(k.First), GlobalLastObserved: api.At(k.Last),
		TopFileNames: names,
	}}, nil
}

func (h *Handler) fileMachines(ctx context.Context, q *request) (answer, error) {
	hash, err := q.fileOf()
	if err != nil {
		return answer{}, err
	}
	return h.machineList(q, func(oq odata.Query) ([]device.Device, int64, error) {
		return h.cfg.Files.Machines(ctx, q.caller, hash, oq)
	})
}

func (h *Handler) fileAlerts(ctx context.Context, q *request) (answer, error) {
	hash, err := q.fileOf()
	if err != nil {
		return answer{}, err
	}
	only := odata.Only(h.cfg.AlertFields, "sha256", hash.SHA256.String())
	if !hash.SHA1.IsZero() {
		only = odata.Only(h.cfg.AlertFields, "sha1", hash.SHA1.String())
	}
	return h.alertList(ctx, q, only)
}
