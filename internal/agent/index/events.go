// SPDX-License-Identifier: Apache-2.0

package index

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// handle is a file handle (name_to_handle_at(2)): four bytes of type, then the
// file system's own bytes. It names one inode for as long as that exists.
type handle string

func handleOf(h unix.FileHandle) handle {
	return handle(binary.NativeEndian.AppendUint32(nil, uint32(h.Type()))) + handle(h.Bytes())
}

// maxHandle is MAX_HANDLE_SZ of the kernel, in bytes.
const maxHandle = 128

// open opens what the handle names, on the file system that mount is a descriptor of.
func (h handle) open(mount int, flags int) (int, error) {
	if len(h) < 4 {
		return -1, unix.EINVAL
	}
	fh := unix.NewFileHandle(int32(binary.NativeEndian.Uint32([]byte(h[:4]))), []byte(h[4:]))
	fd, err := retry(func() (int, error) { return unix.OpenByHandleAt(mount, fh, flags) })
	if err == unix.EPERM && flags&unix.O_NOATIME != 0 { //nolint:errorlint // a bare errno from x/sys
		return retry(func() (int, error) { return unix.OpenByHandleAt(mount, fh, flags&^unix.O_NOATIME) })
	}
	return fd, err
}

// place is a name in a folder about which something happened.
type place struct {
	dir  handle
	name string // any bytes
}

// event is what one fanotify record says. It is a hint where to look, never a
// fact: by the time it is read the world has gone on.
type event struct {
	mask   uint64
	places []place // the folder and name; for a rename the new one first, then the old
	target handle  // the inode itself, "" when not told
}

func (e *event) overflow() bool { return e.mask&unix.FAN_Q_OVERFLOW != 0 }

var errBadEvents = errors.New("cannot read file system events: the kernel's record makes no sense")

// parseEvents cuts what was read from a fanotify group (fanotify(7)):
//
//	u32 event_len | u8 version | u8 | u16 metadata_len | u64 mask | s32 fd | s32 pid, then records:
//	u8 type | u8 | u16 len | 8 bytes fsid | u32 handle_bytes | s32 handle_type | handle | name NUL
func parseEvents(buf []byte) (list []event, err error) {
	for len(buf) > 0 {
		if len(buf) < unix.FAN_EVENT_METADATA_LEN {
			return list, errBadEvents
		}
		size, meta := int(binary.NativeEndian.Uint32(buf)), int(binary.NativeEndian.Uint16(buf[6:]))
		if v := buf[4]; v != unix.FANOTIFY_METADATA_VERSION {
			return list, fmt.Errorf("%w: version %d", errBadEvents, v)
		}
		if size < unix.FAN_EVENT_METADATA_LEN || size > len(buf) || meta < unix.FAN_EVENT_METADATA_LEN || meta > size {
			return list, errBadEvents
		}
		e := event{mask: binary.NativeEndian.Uint64(buf[8:])}
		if err := e.records(buf[meta:size]); err != nil {
			return list, err
		}
		list = append(list, e)
		buf = buf[size:]
	}
	return list, nil
}

func (e *event) records(buf []byte) error {
	const head = 4
	for len(buf) > 0 {
		if len(buf) < head {
			return errBadEvents
		}
		typ, size := buf[0], int(binary.NativeEndian.Uint16(buf[2:]))
		if size < head || size > len(buf) {
			return errBadEvents
		}
		body := buf[head:size]
		buf = buf[size:]
		switch typ {
		case unix.FAN_EVENT_INFO_TYPE_FID, unix.FAN_EVENT_INFO_TYPE_DFID, unix.FAN_EVENT_INFO_TYPE_DFID_NAME,
			unix.FAN_EVENT_INFO_TYPE_OLD_DFID_NAME, unix.FAN_EVENT_INFO_TYPE_NEW_DFID_NAME:
		default:
			continue
		}
		h, name, err := fid(body)
		if err != nil {
			return err
		}
		switch typ {
		case unix.FAN_EVENT_INFO_TYPE_FID:
			e.target = h
		case unix.FAN_EVENT_INFO_TYPE_NEW_DFID_NAME:
			e.places = append([]place{{h, name}}, e.places...)
		default:
			e.places = append(e.places, place{h, name})
		}
	}
	return nil
}

// fid reads fsid, handle and name.
func fid(b []byte) (h handle, name string, err error) {
	const head = 16
	if len(b) < head {
		return "", "", errBadEvents
	}
	size := int(binary.NativeEndian.Uint32(b[8:]))
	if size < 0 || size > maxHandle || head+size > len(b) {
		return "", "", errBadEvents
	}
	h = handle(b[12:16]) + handle(b[head:head+size])
	raw, _, _ := bytes.Cut(b[head+size:], []byte{0})
	if name = string(raw); name == "." { // about the folder itself
		name = ""
	}
	return h, name, nil
}
