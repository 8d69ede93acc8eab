// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"database/sql"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"staunch/api"
	"staunch/internal/order"
	"staunch/internal/server/action"
)

// maxItems bounds what one device may say of its vault.
const maxItems = 100_000

// putItem leaves an item alone that is another device's: no device speaks for another.
const putItem = `INSERT INTO items (id, machine_id, order_id, sha1, sha256, size, paths, uid, gid, mode, sealed, state, comment)
	VALUES ($1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11,$12,$13)
	ON CONFLICT (id) DO UPDATE SET order_id = excluded.order_id, sha1 = excluded.sha1, sha256 = excluded.sha256, size = excluded.size,
		paths = excluded.paths, uid = excluded.uid, gid = excluded.gid, mode = excluded.mode, sealed = excluded.sealed,
		state = excluded.state, comment = excluded.comment
	WHERE items.machine_id = excluded.machine_id`

// PutItems is action.Store's.
func (s *Store) PutItems(ctx context.Context, device string, items []order.Item, all bool) error {
	if len(items) > maxItems {
		return api.Errorf(api.InvalidInput, "%d items are more than the %d that are kept of a device", len(items), maxItems)
	}
	rows := make([][]any, len(items))
	listed := make(map[string]bool, len(items))
	for i, it := range items {
		var err error
		if rows[i], err = itemRow(device, it); err != nil {
			return err
		}
		listed[it.ID] = true
	}
	return s.change(ctx, func(t *tx) error {
		if all {
			if err := dropItems(t, device, listed); err != nil {
				return fmt.Errorf("cannot drop vault items of device %s: %w", device, err)
			}
		}
		for i, row := range rows {
			kept, err := t.execCount(putItem, row...)
			if err != nil {
				return fmt.Errorf("cannot keep vault item %s: %w", items[i].ID, err)
			}
			if kept == 0 {
				s.log.Warn("device claims a vault item of another", "device", device, "item", items[i].ID)
			}
		}
		return nil
	})
}

func itemRow(device string, it order.Item) ([]any, error) {
	paths, err := toJSON("paths of item", it.Paths)
	if err != nil {
		return nil, err
	}
	if it.Sealed.IsZero() {
		return nil, api.Errorf(api.InvalidInput, "item %q has no date of sealing", it.ID)
	}
	return []any{it.ID, device, it.Order, it.SHA1.String(), it.SHA256.String(), it.Size, paths, int64(it.UID), int64(it.GID), int64(it.Mode),
			micros(it.Sealed), it.State, it.Comment},
		checkTexts(text{"device", device, maxName}, text{"item id", it.ID, maxName}, text{"item order", it.Order, maxName},
			text{"item state", it.State, maxName}, text{"item comment", it.Comment, maxText})
}

// dropItems drops those of the device's items that are not listed. A vault has
// few items, and the list may be longer than a statement's parameters.
func dropItems(t *tx, device string, listed map[string]bool) error {
	rows, err := t.query("SELECT id FROM items WHERE machine_id = $1", device)
	known, err := collect(rows, err, scanString)
	if err != nil {
		return err
	}
	for _, id := range known {
		if listed[id] {
			continue
		}
		if err := t.exec("DELETE FROM items WHERE id = $1", id); err != nil {
			return err
		}
	}
	return nil
}

const selectItem = `SELECT i.id, i.machine_id, coalesce(d.name, ''), i.order_id, i.sha1, i.sha256, i.size, i.paths, i.uid, i.gid, i.mode, i.sealed, i.state, i.comment
	FROM items i LEFT JOIN devices d ON d.id = i.machine_id`

func scanItem(scan func(...any) error) (it action.Item, err error) {
	err = scan(&it.ID, &it.MachineID, &it.MachineName, &it.Order, scanHash{&it.SHA1}, scanHash{&it.SHA256}, &it.Size, scanJSON{&it.Paths},
		&it.UID, &it.GID, &it.Mode, scanMicros{&it.Sealed}, &it.State, &it.Comment)
	return it, err
}

// Items is action.Store's: the newest first. The cursor is "" after the last page.
func (s *Store) Items(ctx context.Context, f action.ItemFilter) ([]action.Item, string, error) {
	if f.Limit < 1 || f.Limit > 1000 {
		return nil, "", api.Errorf(api.InvalidInput, "limit is %d, want 1 to 1000", f.Limit)
	}
	where, err := itemConditions(f)
	if err != nil {
		return nil, "", err
	}
	for _, arg := range where.args {
		if v, ok := arg.(string); ok && !storable(v) {
			return nil, "", nil
		}
	}
	args := append(where.args, f.Limit+1)
	text := fmt.Sprintf("%s%s ORDER BY i.sealed DESC, i.id DESC LIMIT $%d", selectItem, where.where(), len(args))
	rows, err := s.reader(ctx).query(text, args...)
	items, err := collect(rows, err, scanItem)
	if err != nil {
		return nil, "", fmt.Errorf("cannot list vault items: %w", err)
	}
	if len(items) <= f.Limit {
		return items, "", nil
	}
	items = items[:f.Limit]
	return items, itemCursor(items[f.Limit-1]), nil
}

func itemConditions(f action.ItemFilter) (c conditions, err error) {
	for _, term := range []struct{ sql, value string }{
		{"i.machine_id = ?", f.Device},
		{"i.order_id = ?", f.Order},
		{"i.sha1 = ?", f.File.SHA1.String()},
		{"i.sha256 = ?", f.File.SHA256.String()},
		{"i.state = ?", f.State},
	} {
		if term.value != "" {
			c.add(term.sql, term.value)
		}
	}
	if f.Groups != nil {
		c.terms = append(c.terms, onDevicesOf("i.machine_id", f.Groups))
	}
	if f.After == "" {
		return c, nil
	}
	sealed, id, err := parseItemCursor(f.After)
	if err != nil {
		return c, err
	}
	c.add("i.sealed <= ?", sealed) // also said alone, so that the index is entered at the right place
	at := "$" + strconv.Itoa(len(c.args))
	c.add("(i.sealed < "+at+" OR i.id < ?)", id)
	return c, nil
}

// itemCursor names the last item of a page: microseconds and id.
func itemCursor(it action.Item) string {
	return base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, "%d %s", it.Sealed.UnixMicro(), it.ID))
}

func parseItemCursor(cursor string) (sealed int64, id string, err error) {
	refused := api.Errorf(api.InvalidInput, "after is not a cursor of this list: take it from the nextLink of the page before")
	b, err := base64.RawURLEncoding.DecodeString(cursor)
	if err != nil {
		return 0, "", refused
	}
	at, id, ok := strings.Cut(string(b), " ")
	if sealed, err = strconv.ParseInt(at, 10, 64); err != nil || !ok || !storable(id) {
		return 0, "", refused
	}
	return sealed, id, nil
}

// Item is action.Store's.
func (s *Store) Item(ctx context.Context, id string) (action.Item, error) {
	err := error(sql.ErrNoRows)
	var it action.Item
	if storable(id) {
		it, err = scanItem(s.reader(ctx).row(selectItem+" WHERE i.id = $1", id).Scan)
	}
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return action.Item{}, api.Errorf(api.ResourceNotFound, "Quarantine item %.128q was not found", id)
	case err != nil:
		return action.Item{}, fmt.Errorf("cannot read vault item %s: %w", id, err)
	}
	return it, nil
}
