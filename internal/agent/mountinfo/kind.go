// SPDX-License-Identifier: Apache-2.0

package mountinfo

import "strings"

// Kind says what to expect of a file system.
type Kind int

const (
	Local  Kind = iota // files on a disk or in the memory of this machine; also whatever is not known
	Layers             // overlay: its files are files of other file systems
	Pseudo             // a view of the kernel: holds no files of anybody
	Remote             // another machine's, or answered by a process: may hang
)

// Kind goes by the type.
func (m Mount) Kind() Kind {
	switch m.Type {
	case "overlay":
		return Layers
	case "proc", "sysfs", "cgroup", "cgroup2", "devpts", "mqueue", "debugfs", "tracefs", "securityfs", "configfs",
		"fusectl", "binfmt_misc", "pstore", "efivarfs", "bpf", "hugetlbfs", "autofs", "rpc_pipefs", "nsfs", "selinuxfs",
		"smackfs", "binder", "functionfs", "nfsd", "resctrl":
		return Pseudo
	case "nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "afs", "lustre", "glusterfs", "beegfs", "gfs2", "ocfs2", "virtiofs",
		"vboxsf", "coda", "orangefs", "davfs", "ncpfs", "fuse":
		return Remote
	}
	if strings.HasPrefix(m.Type, "fuse.") {
		return Remote
	}
	return Local
}
