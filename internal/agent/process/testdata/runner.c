// SPDX-License-Identifier: Apache-2.0

// A program that refuses to be stopped, in the way its first argument names.
// It ends by itself at the time (seconds since 1970) its second argument gives.

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static long until;
static long arg;
static char **self;

static volatile long *beats; // in a file the test looks at: proof of life that no list of processes gives

static void check(void)
{
	if (beats && __sync_fetch_and_add(beats, 1) > 3000)
		usleep(5000); // enough of a nuisance to the machine
	if (time(NULL) >= until)
		_exit(0);
}

static void rest(void)
{
	for (;;) {
		check();
		usleep(10000);
	}
}

static void *rest_thread(void *x)
{
	(void)x;
	rest();
	return NULL;
}

// hop changes its pid every arg microseconds.
static void hop(int session)
{
	for (;;) {
		check();
		if (arg)
			usleep(arg);
		if (session)
			setsid();
		if (fork() > 0)
			_exit(0);
	}
}

// comet changes its pid and executes itself anew each time.
static void comet(const char *exe)
{
	check();
	if (arg)
		usleep(arg);
	if (fork() > 0)
		_exit(0);
	execv(exe, self);
	_exit(1);
}

// clone_parent hops as a sibling of itself: its parent never changes.
static void sibling(void)
{
	for (;;) {
		check();
		if (arg)
			usleep(arg);
		if (syscall(SYS_clone, CLONE_PARENT | SIGCHLD, 0, 0, 0, 0) > 0)
			_exit(0);
	}
}

static int copy_to(int out)
{
	int in = open("/proc/self/exe", O_RDONLY);
	struct stat st;
	if (in < 0 || fstat(in, &st))
		return -1;
	for (off_t left = st.st_size; left > 0;) {
		ssize_t n = sendfile(out, in, NULL, left);
		if (n <= 0)
			return -1;
		left -= n;
	}
	close(in);
	return 0;
}

// memfd executes a copy of itself in memory; again and again if hopping.
static void memfd(int hopping)
{
	check();
	if (hopping && fork() > 0)
		_exit(0);
	int fd = memfd_create("x", MFD_CLOEXEC);
	if (fd < 0 || copy_to(fd))
		_exit(2);
	char path[64];
	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	int ro = open(path, O_RDONLY | O_CLOEXEC);
	close(fd);
	if (!hopping)
		self[1] = "sleep";
	else if (arg)
		usleep(arg);
	fexecve(ro, self, environ);
	_exit(3);
}

// pair: each of two starts the other again when it dies.
static void pair(void)
{
	for (;;) {
		pid_t parent = getpid();
		pid_t child = fork();
		if (child == 0) {
			while (getppid() == parent) {
				check();
				usleep(200);
			}
			continue; // the parent died: be the parent
		}
		for (;;) {
			check();
			int st;
			pid_t p = waitpid(child, &st, WNOHANG | WUNTRACED);
			if (p == child || p < 0)
				break; // dead or stopped: another one
			usleep(100);
		}
	}
}

// bomb forks as long as fewer than arg processes are alive.
static void bomb(void)
{
	long *alive = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	long *born = alive + 1;
	signal(SIGCHLD, SIG_IGN);
	__sync_fetch_and_add(alive, 1);
	for (;;) {
		check();
		if (__sync_add_and_fetch(alive, 1) > arg || __sync_add_and_fetch(born, 1) > 20 * arg) {
			__sync_fetch_and_sub(alive, 1);
			usleep(5000);
			continue;
		}
		if (fork() < 0)
			__sync_fetch_and_sub(alive, 1);
	}
}

static void traced(void)
{
	pid_t child = fork();
	if (child == 0) {
		ptrace(PTRACE_TRACEME, 0, 0, 0);
		raise(SIGSTOP);
		rest();
	}
	int st;
	waitpid(child, &st, WUNTRACED);
	rest(); // the child stays stopped under its tracer
}

// nursery starts what its arguments name and takes in all its orphans, so that
// the dead do not pile up before the machine's init. Once the program has been
// executed it leaves the file ready.PID.
static int nursery(char **argv)
{
	int executed[2];
	char c, name[64];

	prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
	signal(SIGCHLD, SIG_IGN);
	if (pipe2(executed, O_CLOEXEC))
		return 68;
	if (fork() == 0) {
		signal(SIGCHLD, SIG_DFL);
		execv(argv[2], argv + 2);
		_exit(67);
	}
	close(executed[1]);
	while (read(executed[0], &c, 1) < 0)
		;
	snprintf(name, sizeof name, "ready.%d", getpid());
	close(open(name, O_CREAT | O_WRONLY, 0600));
	for (;;)
		pause();
}

int main(int argc, char **argv)
{
	if (argc > 2 && !strcmp(argv[1], "nursery"))
		return nursery(argv);
	if (argc < 3)
		return 64;
	self = argv;
	until = atol(argv[2]);
	arg = argc > 3 ? atol(argv[3]) : 0;
	const char *mode = argv[1];
	const char *beat = getenv("STAUNCH_BEAT");
	if (beat) {
		int fd = open(beat, O_RDWR | O_CLOEXEC);
		void *m = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		if (fd < 0 || m == MAP_FAILED)
			return 66;
		close(fd);
		beats = m;
	}
	signal(SIGTERM, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
	if (!strcmp(mode, "sleep"))
		rest();
	if (!strcmp(mode, "stopped")) {
		for (int i = 0; i < 50; i++)
			check();
		raise(SIGSTOP);
		rest();
	}
	if (!strcmp(mode, "hop"))
		hop(0);
	if (!strcmp(mode, "sessionhop"))
		hop(1);
	if (!strcmp(mode, "sibling"))
		sibling();
	if (!strcmp(mode, "comet"))
		comet("/proc/self/exe");
	if (!strcmp(mode, "memfd"))
		memfd(0);
	if (!strcmp(mode, "memhop"))
		memfd(1);
	if (!strcmp(mode, "pair"))
		pair();
	if (!strcmp(mode, "bomb"))
		bomb();
	if (!strcmp(mode, "traced"))
		traced();
	if (!strcmp(mode, "deleted")) {
		char path[4096];
		ssize_t n = readlink("/proc/self/exe", path, sizeof path - 1);
		if (n > 0) {
			path[n] = 0;
			unlink(path);
		}
		rest();
	}
	if (!strcmp(mode, "threads") || !strcmp(mode, "leaderless")) {
		pthread_t t;
		for (int i = 0; i < 4; i++)
			pthread_create(&t, NULL, rest_thread, NULL);
		if (!strcmp(mode, "leaderless"))
			syscall(SYS_exit, 0);
		rest();
	}
	if (!strcmp(mode, "many")) {
		for (long i = 1; i < arg; i++)
			if (fork() == 0)
				break;
		rest();
	}
	return 65;
}
