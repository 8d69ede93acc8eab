// SPDX-License-Identifier: Apache-2.0

// A program that fights its own containment with files, names and namespaces.
// What it does with processes it has from runner.c, whose conventions it keeps:
// foe MODE UNTIL ARG…, where it ends by itself at UNTIL, seconds since 1970.

#define main runner_main
#include "../../../internal/agent/process/testdata/runner.c"
#undef main

#include <dirent.h>
#include <dlfcn.h>
#include <limits.h>
#include <linux/fs.h>
#include <sys/mount.h>

static int exchange(const char *a, const char *b)
{
	return syscall(SYS_renameat2, AT_FDCWD, a, AT_FDCWD, b, RENAME_EXCHANGE);
}

// keep makes an accomplice end in time and breathe every thousandth turn: two
// cores are shared with those who watch.
static void keep(void)
{
	static unsigned turn;
	if (++turn % 64 == 0) {
		if (time(NULL) >= until)
			_exit(0);
		usleep(50);
	}
}

static int copy_self(const char *to)
{
	int fd = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0755);
	if (fd < 0)
		return -1;
	int err = copy_to(fd);
	close(fd);
	return err;
}

// spread writes itself to arg new names in a folder and runs every second copy.
static void spread(char **argv)
{
	char path[PATH_MAX];
	signal(SIGCHLD, SIG_IGN);
	for (long i = 0; i < arg; i++) {
		check();
		snprintf(path, sizeof path, "%s/spread-%d-%ld", argv[4], getpid(), i);
		if (copy_self(path) == 0 && i % 2 && fork() == 0) {
			char *as[] = {path, "sleep", argv[2], "0", NULL};
			execv(path, as);
			_exit(1);
		}
		usleep(2000);
	}
	rest();
}

// crawl copies itself to a new name, executes that and removes the old one.
static void crawl(char **argv)
{
	char path[PATH_MAX], old[PATH_MAX];
	ssize_t n = readlink("/proc/self/exe", old, sizeof old - 1);
	if (n < 0)
		_exit(1);
	old[n] = 0;
	check();
	usleep(arg);
	if (fork() > 0)
		_exit(0);
	snprintf(path, sizeof path, "%s/crawl-%d", argv[4], getpid());
	if (copy_self(path) == 0) {
		unlink(old);
		execv(path, argv);
	}
	rest(); // no further than this
}

// rename_loop gives a file one name after the other, over and over.
static void rename_loop(char **argv)
{
	char a[PATH_MAX], b[PATH_MAX];
	snprintf(a, sizeof a, "%s", argv[4]);
	for (unsigned i = 0;; i++) {
		keep();
		check();
		snprintf(b, sizeof b, "%s/name-%u", argv[5], i % 5);
		if (rename(a, b) == 0)
			memcpy(a, b, sizeof a);
		if (arg)
			usleep(arg);
	}
}

// link_storm makes and removes hard links.
static void link_storm(char **argv)
{
	char b[PATH_MAX];
	for (unsigned i = 0;; i++) {
		keep();
		snprintf(b, sizeof b, "%s/link-%u", argv[5], i % 40);
		if (link(argv[4], b) != 0)
			unlink(b);
		if (arg)
			usleep(arg);
	}
}

static int opened(char **argv, void **map)
{
	struct stat st;
	int fd = open(argv[4], O_RDWR | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st))
		_exit(1);
	*map = mmap(NULL, st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (*map == MAP_FAILED)
		_exit(1);
	return fd;
}

// writer keeps a file open and mapped for writing and leaves it alone; flip
// changes its last byte and back, by write or through the mapping.
static void writer(char **argv, int flip, int mapped)
{
	void *map;
	struct stat st;
	int fd = opened(argv, &map);
	if (fstat(fd, &st))
		_exit(1);
	char *last = (char *)map + st.st_size - 1, real = *last, other = real ^ 1;
	for (unsigned i = 0;; i++) {
		check();
		usleep(flip ? arg : 10000);
		if (!flip)
			continue;
		char c = i % 2 ? real : other;
		if (mapped)
			*last = c;
		else if (pwrite(fd, &c, 1, st.st_size - 1) != 1)
			_exit(1);
	}
}

// keeper holds a descriptor of a file, or of a copy of it in memory, and
// executes that again and again, whatever becomes of its name.
static void keeper(char **argv, int memory)
{
	int fd = open(argv[4], O_RDONLY | O_CLOEXEC);
	struct stat st;
	if (fd < 0 || fstat(fd, &st))
		_exit(1);
	if (memory) {
		int m = memfd_create("kept", MFD_CLOEXEC);
		for (off_t left = st.st_size; left > 0;) {
			ssize_t n = sendfile(m, fd, NULL, left);
			if (n <= 0)
				_exit(1);
			left -= n;
		}
		char path[64];
		snprintf(path, sizeof path, "/proc/self/fd/%d", m);
		close(fd);
		fd = open(path, O_RDONLY | O_CLOEXEC);
		close(m);
	}
	for (;;) {
		if (time(NULL) >= until)
			_exit(0);
		pid_t child = fork();
		if (child == 0) {
			char *as[] = {"kept", "sleep", argv[2], "0", NULL};
			fexecve(fd, as, environ);
			_exit(1);
		}
		waitpid(child, NULL, 0);
		usleep(arg);
	}
}

// respawn executes a file by its name again and again.
static void respawn(char **argv)
{
	for (;;) {
		if (time(NULL) >= until)
			_exit(0);
		pid_t child = fork();
		if (child == 0) {
			char *as[] = {argv[4], "sleep", argv[2], "0", NULL};
			execv(argv[4], as);
			_exit(1);
		}
		waitpid(child, NULL, 0);
		usleep(arg);
	}
}

static void *exec_thread(void *x)
{
	char **argv = x;
	usleep(arg);
	execv("/proc/self/exe", argv);
	return NULL;
}

// thread_exec executes itself anew from a thread that is not the first.
static void thread_exec(char **argv)
{
	pthread_t t;
	check();
	pthread_create(&t, NULL, exec_thread, argv);
	for (;;)
		pause();
}

// daemonise leaves session, parent and folder behind.
static void daemonise(void)
{
	if (fork() > 0)
		_exit(0);
	setsid();
	if (fork() > 0)
		_exit(0);
	if (chdir("/"))
		_exit(1);
	for (int fd = 0; fd < 64; fd++)
		close(fd);
	rest();
}

// private_copy runs itself from a file system that nobody else has mounted, as
// the first process of a pid namespace; with arg it hops there.
static void private_copy(char **argv)
{
	char path[PATH_MAX];
	if (unshare(CLONE_NEWNS | CLONE_NEWPID) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL))
		_exit(70);
	if (fork() > 0)
		rest(); // the copy's outer half
	if (mount("own", argv[4], "tmpfs", 0, "size=32m"))
		_exit(71);
	snprintf(path, sizeof path, "%s/inner", argv[4]);
	if (copy_self(path))
		_exit(72);
	signal(SIGCHLD, SIG_IGN); // the dead do not pile up before this namespace's init
	if (arg)
		if (fork() == 0) {
			char *as[] = {path, "hop", argv[2], argv[3], NULL};
			execv(path, as);
		}
	char *as[] = {path, "sleep", argv[2], "0", NULL};
	execv(path, as);
	_exit(73);
}

int main(int argc, char **argv)
{
	const char *mode = argc > 1 ? argv[1] : "";
	if (argc < 4 || !strcmp(mode, "nursery"))
		return runner_main(argc, argv);
	self = argv;
	until = atol(argv[2]);
	arg = atol(argv[3]);
	// These are innocent: only what they start gives signs of life.
	int accomplice = !strcmp(mode, "exchange") || !strcmp(mode, "keep") || !strcmp(mode, "keepmemory") || !strcmp(mode, "respawn");
	const char *beat = getenv("STAUNCH_BEAT");
	if (beat && !accomplice) {
		int fd = open(beat, O_RDWR | O_CLOEXEC);
		void *m = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		if (fd < 0 || m == MAP_FAILED)
			return 66;
		close(fd);
		beats = m;
	}
	if (!strcmp(mode, "exchange"))
		for (;;) {
			keep();
			exchange(argv[4], argv[5]);
			if (arg)
				usleep(arg);
		}
	if (!strcmp(mode, "spread"))
		spread(argv);
	if (!strcmp(mode, "crawl"))
		crawl(argv);
	if (!strcmp(mode, "rename"))
		rename_loop(argv);
	if (!strcmp(mode, "links"))
		link_storm(argv);
	if (!strcmp(mode, "writer"))
		writer(argv, 0, 0);
	if (!strcmp(mode, "flip"))
		writer(argv, 1, 0);
	if (!strcmp(mode, "mapflip"))
		writer(argv, 1, 1);
	if (!strcmp(mode, "keep"))
		keeper(argv, 0);
	if (!strcmp(mode, "keepmemory"))
		keeper(argv, 1);
	if (!strcmp(mode, "respawn"))
		respawn(argv);
	if (!strcmp(mode, "threadexec"))
		thread_exec(argv);
	if (!strcmp(mode, "daemon"))
		daemonise();
	if (!strcmp(mode, "private"))
		private_copy(argv);
#ifdef DYNAMIC
	if (!strcmp(mode, "dlopen")) {
		if (!dlopen(argv[4], RTLD_NOW))
			return 74;
		rest();
	}
#endif
	return runner_main(argc, argv);
}
