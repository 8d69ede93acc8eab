/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */

/*
 * The few fields of the kernel that hold.c reads, in place of a generated
 * vmlinux.h of several megabytes. Offsets do not matter: every access is
 * relocated against the running kernel's own type information when the object
 * is loaded. A name after three underscores is another shape of the same type
 * in other kernel versions.
 */

#ifndef STAUNCH_KERNEL_H
#define STAUNCH_KERNEL_H

typedef unsigned char __u8;
typedef signed char __s8;
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
typedef __u8 u8;
typedef __u32 u32;
typedef __u64 u64;
typedef int pid_t;
typedef _Bool bool;

enum bpf_map_type {
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_LRU_HASH = 9,
	BPF_MAP_TYPE_RINGBUF = 27,
};

enum pid_type {
	PIDTYPE_PID,
	PIDTYPE_TGID,
};

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct super_block {
	unsigned long s_magic;
};

struct timespec64 {
	__s64 tv_sec;
	long tv_nsec;
};

struct inode { /* 6.11 and later */
	struct super_block *i_sb;
	long long i_size;
	__s64 i_mtime_sec;
	__u32 i_mtime_nsec;
};

struct inode___mid { /* 6.7 to 6.10 */
	struct timespec64 __i_mtime;
};

struct inode___old { /* before 6.7 */
	struct timespec64 i_mtime;
};

struct file {
	struct inode *f_inode;
};

struct fdtable {
	unsigned int max_fds;
	struct file **fd;
};

struct files_struct {
	struct fdtable *fdt;
};

struct mm_struct {
	struct file *exe_file;
};

struct task_struct {
	unsigned int flags;
	pid_t pid;
	pid_t tgid;
	struct mm_struct *mm;
	struct task_struct *group_leader;
	struct task_struct *real_parent;
	struct files_struct *files;
	__u64 start_boottime;
};

struct linux_binprm;
struct seq_file;
struct pt_regs;

struct bpf_iter_meta {
	struct seq_file *seq;
};

struct bpf_iter__task {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
};

struct bpf_raw_tracepoint_args {
	__u64 args[0];
};

#pragma clang attribute pop

#endif
