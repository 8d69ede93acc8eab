// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only

// Refuses, inside the kernel, to open, execute or map a marked file. The
// programs, their marks and their exemptions are pinned in the BPF file system
// and need no process: they go on when the agent is dead.
//
// A file is known by device, inode number and generation. The generation tells
// apart two files that had the same number one after the other, so that no
// mark is ever inherited; a file system that keeps none is not marked.

typedef unsigned char __u8;
typedef unsigned short __u16;
typedef short __s16;
typedef unsigned int __u32;
typedef int __s32;
typedef unsigned long long __u64;
typedef long long __s64;
typedef __u16 __be16;
typedef __u32 __be32;
typedef __u64 __be64;
typedef __u32 __wsum;
typedef int pid_t;

enum bpf_map_type {
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_RINGBUF = 27,
};

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "GPL"; // of the helpers that read the kernel's memory

// The few fields that are read, wherever the running kernel has them.
#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
struct super_block {
	__u32 s_dev;
};
struct inode {
	struct super_block *i_sb;
	unsigned long i_ino;
	__u32 i_generation;
};
struct file {
	struct inode *f_inode;
};
struct linux_binprm {
	struct file *file;
};
struct vm_area_struct {
	struct file *vm_file;
};
struct fdtable {
	unsigned int max_fds;
	struct file **fd;
};
struct files_struct {
	struct fdtable *fdt;
};
struct task_struct {
	pid_t tgid;
	struct task_struct *group_leader;
	struct task_struct *real_parent;
	struct files_struct *files;
	__u64 start_boottime;
};
#pragma clang attribute pop

struct bpf_raw_tracepoint_args {
	__u64 args[0];
};

#define EPERM 1
#define PROT_EXEC 4
#define TICK 10000000ULL // ns; USER_HZ is 100
#define ID 48

#define EXEMPT_SELF 1	  // the process
#define EXEMPT_CHILDREN 2 // what it started: the gate, which reads what others open

#define KIND_OPEN 0
#define KIND_EXEC 1

struct key {
	__u64 ino;
	__u32 dev; // as the kernel writes it, which stat need not show
	__u32 generation;
};

struct mark {
	char id[ID]; // of the rule
	__u64 refused;
};

struct exemption {
	__u64 start; // of the process, in ticks since boot as /proc/PID/stat has it
	__u64 kind;
};

struct event {
	char id[ID];
	__u32 tgid;
	__u32 kind;
};

struct answer { // what inspect found under a descriptor
	struct key key;
	__u32 tgid; // of who asked, in the first pid namespace
	__u32 found;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, struct key);
	__type(value, struct mark);
} marks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16);
	__type(key, __u32); // tgid
	__type(value, struct exemption);
} exempt SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 16);
} events SEC(".maps"); // what was refused, for the agent's log; full while it is dead

// For inspect alone, which is not pinned.
volatile __u32 asked_fd;
struct answer answered;

static __always_inline int is_exempt(struct task_struct *leader, __u64 kind)
{
	__u32 tgid = BPF_CORE_READ(leader, tgid);
	struct exemption *x = bpf_map_lookup_elem(&exempt, &tgid);

	return x && (x->kind & kind) && x->start == BPF_CORE_READ(leader, start_boottime) / TICK;
}

static __always_inline void key_of(struct inode *inode, struct key *k)
{
	k->ino = BPF_CORE_READ(inode, i_ino);
	k->dev = BPF_CORE_READ(inode, i_sb, s_dev);
	k->generation = BPF_CORE_READ(inode, i_generation);
}

static __always_inline int judge(struct file *file, __u32 kind)
{
	struct inode *inode = file ? BPF_CORE_READ(file, f_inode) : 0;
	struct key k = {};

	if (!inode)
		return 0;
	key_of(inode, &k);
	struct mark *m = bpf_map_lookup_elem(&marks, &k);
	if (!m)
		return 0;
	struct task_struct *p = (void *)bpf_get_current_task();
	if (is_exempt(BPF_CORE_READ(p, group_leader), EXEMPT_SELF) ||
	    is_exempt(BPF_CORE_READ(p, real_parent, group_leader), EXEMPT_CHILDREN))
		return 0;
	__sync_fetch_and_add(&m->refused, 1);
	struct event *e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);
	if (e) {
		__builtin_memcpy(e->id, m->id, ID);
		e->tgid = BPF_CORE_READ(p, tgid);
		e->kind = kind;
		bpf_ringbuf_submit(e, 0);
	}
	return -EPERM;
}

// Executing opens the file first, so this refuses most of that too; on an
// overlay it is asked about the file of the layer as well.
SEC("lsm/file_open")
int BPF_PROG(on_open, struct file *file, int ret)
{
	return ret ? ret : judge(file, KIND_OPEN);
}

SEC("lsm/bprm_check_security")
int BPF_PROG(on_exec, struct linux_binprm *bprm, int ret)
{
	return ret ? ret : judge(BPF_CORE_READ(bprm, file), KIND_EXEC);
}

// For descriptors that were open before the mark.
SEC("lsm/mmap_file")
int BPF_PROG(on_map, struct file *file, unsigned long reqprot, unsigned long prot, unsigned long flags, int ret)
{
	if (ret || !((reqprot | prot) & PROT_EXEC))
		return ret;
	return judge(file, KIND_EXEC);
}

// For mappings that were made before the mark.
SEC("lsm/file_mprotect")
int BPF_PROG(on_protect, struct vm_area_struct *vma, unsigned long reqprot, unsigned long prot, int ret)
{
	if (ret || !((reqprot | prot) & PROT_EXEC))
		return ret;
	return judge(BPF_CORE_READ(vma, vm_file), KIND_EXEC);
}

// Never attached: the agent runs it to learn which inode one of its own
// descriptors names, in the words of the programs above.
SEC("raw_tracepoint/sched_process_exit")
int inspect(struct bpf_raw_tracepoint_args *ctx)
{
	struct task_struct *p = (void *)bpf_get_current_task();
	struct fdtable *fdt = BPF_CORE_READ(p, files, fdt);
	__u32 fd = asked_fd;
	struct file *f = 0;
	struct answer a = {};

	a.tgid = BPF_CORE_READ(p, tgid);
	if (fdt && fd < BPF_CORE_READ(fdt, max_fds)) {
		bpf_probe_read_kernel(&f, sizeof(f), BPF_CORE_READ(fdt, fd) + fd);
		struct inode *inode = f ? BPF_CORE_READ(f, f_inode) : 0;
		if (inode) {
			key_of(inode, &a.key);
			a.found = 1;
		}
	}
	answered = a;
	return 0;
}
