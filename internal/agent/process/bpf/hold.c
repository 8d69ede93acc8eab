// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only

// Kills, inside the kernel, whatever executes a denied file, before its first
// instruction and without a window in which it could fork.
//
// A file is known by the address of its inode, not by numbers: device and inode
// numbers repeat on overlay and btrfs. The address is the file's as long as the
// inode lives, and the agent keeps a descriptor of every denied file open.

#include "kernel.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "GPL"; // bpf_send_signal asks for it

#define SIGKILL 9
#define TICK 10000000ULL // ns; USER_HZ is 100
#define PF_KTHREAD 0x00200000
#define OVERLAYFS_SUPER_MAGIC 0x794c7630

// What flags asks for; see the constants of the same names in bpf.go.
#define ARMED 1	    // some file is denied: look at every exec and fork
#define ALL_EXECS 2 // tell of every exec, not only of files of a wanted size
#define STREAM 4    // tell of every exec and of every new process in births

#define KIND_EXEC 1
#define KIND_FORK 2

#define EVENT_KILLED 1

// The fields of an inode that tell whether its content may have changed.
struct mark {
	__u64 size;
	__s64 mtime_sec;
	__u64 mtime_nsec;
};

struct event {
	__u64 ns; // CLOCK_MONOTONIC
	__u64 inode;
	__u64 start; // of the process, CLOCK_BOOTTIME ns
	__u32 kind;
	__u32 tgid;
	__u32 parent;
	__u32 flags;
};

struct record { // one process, as the iterator writes it
	__u64 inode;
	__u64 size; // all ones where the file system does not say it
	__u64 start;
	__u32 tgid;
	__u32 denied;
};

struct answer { // what inspect found under a descriptor
	__u64 inode;
	struct mark mark;
	__u64 tgid; // of who asked, in the first pid namespace
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, __u64); // inode
	__type(value, struct mark);
} denied SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, __u64);
	__type(value, __u32);
} sizes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, __u32);   // tgid
	__type(value, __u64); // start of its leader, in ticks as /proc/PID/stat has it
} doomed SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 21);
} events SEC(".maps"); // what was killed, and execs that may be of a target

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 21);
} births SEC(".maps"); // while STREAM

volatile const __u32 old_kernel; // do as before 6.13
volatile __u32 flags;
volatile __u32 self; // never killed, as pid 1 is not
volatile __u32 asked_fd;
volatile __u64 lost;
struct answer answered;

extern int bpf_send_signal_task(struct task_struct *task, int sig, enum pid_type type, u64 value) __ksym __weak;

static __always_inline struct inode *exe_of(struct task_struct *p)
{
	return BPF_CORE_READ(p, mm, exe_file, f_inode);
}

static __always_inline void mark_of(struct inode *inode, struct mark *m)
{
	m->size = BPF_CORE_READ(inode, i_size);
	if (bpf_core_field_exists(inode->i_mtime_sec)) {
		m->mtime_sec = BPF_CORE_READ(inode, i_mtime_sec);
		m->mtime_nsec = BPF_CORE_READ(inode, i_mtime_nsec);
		return;
	}
	struct inode___mid *mid = (void *)inode;
	if (bpf_core_field_exists(mid->__i_mtime)) {
		m->mtime_sec = BPF_CORE_READ(mid, __i_mtime.tv_sec);
		m->mtime_nsec = BPF_CORE_READ(mid, __i_mtime.tv_nsec);
		return;
	}
	struct inode___old *old = (void *)inode;
	m->mtime_sec = BPF_CORE_READ(old, i_mtime.tv_sec);
	m->mtime_nsec = BPF_CORE_READ(old, i_mtime.tv_nsec);
}

// An overlay's inode may not know the size of the file below it.
static __always_inline bool vague(struct inode *inode)
{
	return BPF_CORE_READ(inode, i_sb, s_magic) == OVERLAYFS_SUPER_MAGIC;
}

static __always_inline bool is_doomed(struct task_struct *p, __u32 tgid)
{
	__u64 *start = bpf_map_lookup_elem(&doomed, &tgid);

	return start && *start == BPF_CORE_READ(p, group_leader, start_boottime) / TICK;
}

static __always_inline void tell(void *ring, __u32 kind, __u64 inode, __u32 tgid, __u32 parent, __u64 start, __u32 how)
{
	struct event *e = bpf_ringbuf_reserve(ring, sizeof(*e), 0);

	if (!e) {
		__sync_fetch_and_add(&lost, 1);
		return;
	}
	e->ns = bpf_ktime_get_ns();
	e->inode = inode;
	e->start = start;
	e->kind = kind;
	e->tgid = tgid;
	e->parent = parent;
	e->flags = how;
	bpf_ringbuf_submit(e, 0);
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(on_exec, struct task_struct *p, pid_t old_pid, struct linux_binprm *bprm)
{
	__u32 want = flags;

	if (!(want & ARMED))
		return 0;
	struct inode *inode = exe_of(p);
	__u64 key = (__u64)inode;
	__u32 tgid = BPF_CORE_READ(p, tgid);
	__u32 how = 0;
	struct mark now = {};

	if (!inode || tgid == 1 || tgid == self)
		return 0;
	__u32 parent = BPF_CORE_READ(p, real_parent, tgid);
	__u64 start = BPF_CORE_READ(p, group_leader, start_boottime);

	mark_of(inode, &now);
	struct mark *was = bpf_map_lookup_elem(&denied, &key);
	if (was && was->size == now.size && was->mtime_sec == now.mtime_sec && was->mtime_nsec == now.mtime_nsec) {
		bpf_send_signal(SIGKILL);
		how = EVENT_KILLED;
	}
	if (was || (want & ALL_EXECS) || vague(inode) || bpf_map_lookup_elem(&sizes, &now.size))
		tell(&events, KIND_EXEC, key, tgid, parent, start, how);
	if (want & STREAM)
		tell(&births, KIND_EXEC, key, tgid, parent, start, how);
	return 0;
}

SEC("tp_btf/sched_process_fork")
int BPF_PROG(on_fork, struct task_struct *parent, struct task_struct *child)
{
	__u32 want = flags;

	if (!(want & ARMED))
		return 0;
	__u64 key = (__u64)exe_of(parent);
	__u32 tgid = BPF_CORE_READ(parent, tgid);
	__u32 child_tgid = BPF_CORE_READ(child, tgid);
	__u32 how = 0;

	if (tgid == self)
		return 0;
	if (tgid != 1 && ((key && bpf_map_lookup_elem(&denied, &key)) || is_doomed(parent, tgid))) {
		bpf_send_signal(SIGKILL);
		if (!old_kernel && &bpf_send_signal_task) {
			bpf_send_signal_task(child, SIGKILL, PIDTYPE_TGID, 0);
			how = EVENT_KILLED;
		}
	}
	if (child_tgid == tgid)
		return 0; // a thread
	__u64 start = BPF_CORE_READ(child, start_boottime);
	if (how)
		tell(&events, KIND_FORK, key, child_tgid, tgid, start, how);
	if (want & STREAM)
		tell(&births, KIND_FORK, key, child_tgid, tgid, start, how);
	return 0;
}

// Kernels before 6.13 cannot signal the child from the hook above. There, a
// process of a denied file is killed on the way into the call that would fork:
// the kernel refuses to fork a process with a signal pending.
SEC("tp_btf/sys_enter")
int BPF_PROG(on_call, struct pt_regs *regs, long id)
{
	if (!(flags & ARMED))
		return 0;
	switch (id & 0xffff) {
	case 2:
	case 56:
	case 57:
	case 58:
	case 120:
	case 190:
	case 220:
	case 435:
		break; // fork, vfork, clone and clone3 of x86 (64 and 32 bit) and of arm64
	default:
		return 0;
	}
	struct task_struct *p = (void *)bpf_get_current_task();
	__u64 key = (__u64)exe_of(p);
	__u32 tgid = BPF_CORE_READ(p, tgid);

	if (!key || tgid == 1 || tgid == self)
		return 0;
	if (bpf_map_lookup_elem(&denied, &key) || is_doomed(p, tgid))
		bpf_send_signal(SIGKILL);
	return 0;
}

SEC("iter/task")
int list(struct bpf_iter__task *ctx)
{
	struct task_struct *p = ctx->task;
	struct record r = {};

	if (!p || (BPF_CORE_READ(p, flags) & PF_KTHREAD))
		return 0;
	struct inode *inode = exe_of(p);
	if (!inode)
		return 0;
	// One line a process: its leader's, or every thread's where the leader
	// has left and the threads run on.
	if (BPF_CORE_READ(p, pid) != BPF_CORE_READ(p, tgid) && BPF_CORE_READ(p, group_leader, mm))
		return 0;
	r.inode = (__u64)inode;
	r.size = vague(inode) ? ~0ULL : BPF_CORE_READ(inode, i_size);
	r.start = BPF_CORE_READ(p, group_leader, start_boottime);
	r.tgid = BPF_CORE_READ(p, tgid);
	r.denied = bpf_map_lookup_elem(&denied, &r.inode) != 0;
	bpf_seq_write(ctx->meta->seq, &r, sizeof(r));
	return 0;
}

// Never attached: the agent runs it to learn which inode one of its own
// descriptors names.
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
			a.inode = (__u64)inode;
			mark_of(inode, &a.mark);
		}
	}
	answered = a;
	return 0;
}
