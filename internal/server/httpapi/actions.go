// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"context"
	"strconv"

	"staunch/api"
	"staunch/internal/filehash"
	"staunch/internal/server/action"
	"staunch/internal/server/auth"
	"staunch/internal/server/odata"
)

func (h *Handler) stopAndQuarantine(ctx context.Context, q *request) (answer, error) {
	r, err := q.stopRequest()
	if err != nil {
		return answer{}, err
	}
	a, err := h.cfg.Actions.StopAndQuarantine(ctx, q.caller, q.args["id"], r)
	if err != nil {
		return answer{}, err
	}
	return q.created(a), nil
}

// stopRequest decodes the body of StopAndQuarantineFile. Sha256 may stand in
// place of Sha1 or beside it.
func (q *request) stopRequest() (r action.StopRequest, err error) {
	f, err := q.object(false)
	if err != nil {
		return r, err
	}
	var sha1, sha256 string
	if err := f.texts(map[string]*string{"Comment": &r.Comment, "Sha1": &sha1, "Sha256": &sha256, "ExternalId": &r.ExternalID}); err != nil {
		return r, err
	}
	if err := f.values(map[string]any{"Force": &r.Force}); err != nil {
		return r, err
	}
	if err := missing("Comment", r.Comment); err != nil {
		return r, err
	}
	if sha256 == "" {
		if err := missing("Sha1", sha1); err != nil {
			return r, err
		}
	}
	if sha1 != "" {
		if r.File.SHA1, err = filehash.ParseSHA1(sha1); err != nil {
			return r, invalidHash(sha1)
		}
	}
	if sha256 != "" {
		if r.File.SHA256, err = filehash.ParseSHA256(sha256); err != nil {
			return r, invalidHash(sha256)
		}
	}
	return r, nil
}

func invalidHash(value string) error {
	return api.Errorf(api.InvalidHashValue, "Hash value %s is invalid.", clip(value))
}

func (h *Handler) actions(ctx context.Context, q *request) (answer, error) {
	oq, err := query[api.MachineAction](q, h.cfg.ActionFields)
	if err != nil {
		return answer{}, err
	}
	return list(q, oq, "MachineActions", func(oq odata.Query) ([]action.Action, int64, error) {
		return h.cfg.Actions.List(ctx, q.caller, oq)
	}, machineAction)
}

func (h *Handler) action(ctx context.Context, q *request) (answer, error) {
	a, err := h.cfg.Actions.Get(ctx, q.caller, q.args["id"])
	if err != nil {
		return answer{}, err
	}
	return q.one(a), nil
}

func (h *Handler) cancel(ctx context.Context, q *request) (answer, error) {
	comment, err := q.comment()
	if err != nil {
		return answer{}, err
	}
	a, err := h.cfg.Actions.Cancel(ctx, q.caller, q.args["id"], comment)
	if err != nil {
		return answer{}, err
	}
	return q.one(a), nil
}

// comment reads a body of which only the Comment matters; it may be left out.
func (q *request) comment() (comment string, err error) {
	f, err := q.object(true)
	if err != nil {
		return "", err
	}
	return comment, f.texts(map[string]*string{"Comment": &comment})
}

// unsupported answers the actions that no agent carries out: with what would
// be wrong with the call in any case, else that this machine cannot.
func (h *Handler) unsupported(ctx context.Context, q *request) (answer, error) {
	f, err := q.object(q.route.needs == nil)
	if err != nil {
		return answer{}, err
	}
	var comment string
	if err := f.texts(map[string]*string{"Comment": &comment}); err != nil {
		return answer{}, err
	}
	if q.route.needs != nil {
		if err := missing("Comment", comment); err != nil {
			return answer{}, err
		}
	}
	d, err := h.cfg.Devices.Lookup(ctx, q.caller, q.args["id"])
	if err != nil {
		return answer{}, err
	}
	if err := auth.AllowOn(q.caller, d.Group, q.route.access.rights...); err != nil {
		return answer{}, err
	}
	return answer{}, api.Errorf(api.OSPlatformNotSupported, "OS Platform %s isn't supported for this action. Machine %s cannot carry it out.", d.Platform, d.Name)
}

// download answers the calls for what actions of other types left to be
// downloaded: no agent leaves any, so there never is something.
func (h *Handler) download(ctx context.Context, q *request) (answer, error) {
	if inner, ok := q.args["args"]; ok {
		args, err := odata.Arguments(inner)
		if err != nil {
			return answer{}, err
		}
		index := args.Get("index")
		if err := missing("index", index); err != nil {
			return answer{}, err
		}
		if n, err := strconv.Atoi(index); err != nil || n < 0 {
			return answer{}, api.Errorf(api.InvalidInput, "Invalid input %s for index: want a whole number from 0", clip(index))
		}
	}
	a, err := h.cfg.Actions.Downloadable(ctx, q.caller, q.args["id"], q.route.access.rights...)
	if err != nil {
		return answer{}, err
	}
	return answer{}, api.Errorf(api.ResourceNotFound, "Machine action %s of type %s left nothing to download", a.ID, a.Type)
}

func (h *Handler) evidence(ctx context.Context, q *request) (answer, error) {
	e, err := h.cfg.Actions.Evidence(ctx, q.caller, q.args["id"])
	return answer{body: e}, err
}

func (q *request) one(a action.Action) answer {
	m := machineAction(a)
	m.Context = q.base + "/api/$metadata#MachineActions/$entity"
	return answer{body: m}
}

func (q *request) created(a action.Action) answer {
	made := q.one(a)
	made.location = q.base + "/api/machineactions/" + a.ID
	return made
}

// machineAction is an action as the API shows it.
func machineAction(a action.Action) api.MachineAction {
	m := api.MachineAction{
		ID:                      a.ID,
		Type:                    a.Type,
		Requestor:               a.Requestor.Name,
		RequestorComment:        a.Comment,
		Status:                  a.Status,
		MachineID:               a.MachineID,
		ComputerDNSName:         orNull(a.MachineName),
		CreationDateTimeUTC:     api.Time{Time: a.Created},
		LastUpdateDateTimeUTC:   api.Time{Time: a.Updated},
		CancellationRequestor:   orNull(a.CancelledBy.ID),
		CancellationComment:     orNull(a.CancelComment),
		CancellationDateTimeUTC: api.At(a.CancelRequested),
		ErrorHResult:            a.ErrorHResult,
		ExternalID:              orNull(a.ExternalID),
		RequestSource:           a.Source,
		Commands:                []any{},
		TroubleshootInfo:        orNull(a.TroubleshootInfo),
	}
	if m.Requestor == "" {
		m.Requestor = a.Requestor.ID
	}
	switch {
	case !a.File.SHA1.IsZero():
		m.RelatedFileInfo = &api.RelatedFileInfo{FileIdentifier: a.File.SHA1.String(), FileIdentifierType: "Sha1"}
	case !a.File.SHA256.IsZero():
		m.RelatedFileInfo = &api.RelatedFileInfo{FileIdentifier: a.File.SHA256.String(), FileIdentifierType: "Sha256"}
	}
	return m
}

func orNull(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}
