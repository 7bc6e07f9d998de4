// The floor: a bare epoll loop in processes that each have their own socket,
// with the socket options of drover's. It parses nothing but where a request
// ends and whether it asks to close, and knows one answer.
//
//	loop PORT WORKERS
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <arpa/inet.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MAXFD = 65536, BATCH = 512, MOST = 64, INPUT = 65536 };

// What is left of a request whose end has not come: its last bytes, in which a
// "\r\n\r\n" may have begun.
static struct conn {
	unsigned char kept, closing;
	char tail[3];
} conns[MAXFD];

static char answer[MOST * 256];
static size_t answer_len; // of one of the MOST that are in answer
static char last[256];    // the answer that says that the connection closes
static size_t last_len;
static time_t answer_at;

static void die(const char *what)
{
	fprintf(stderr, "loop: %s: %s\n", what, strerror(errno));
	exit(1);
}

// date renews the answers, once a second.
static void date(void)
{
	time_t now = time(NULL);
	if (now == answer_at)
		return;
	char when[64];
	struct tm tm;
	strftime(when, sizeof when, "%a, %d %b %Y %H:%M:%S GMT", gmtime_r(&now, &tm));
	static const char form[] = "HTTP/1.1 200 OK\r\nServer: loop\r\nDate: %s\r\nContent-Type: text/plain; charset=utf-8\r\n"
		"Content-Length: 13\r\n%s\r\nHello, World!";
	answer_len = snprintf(answer, sizeof answer, form, when, "");
	last_len = snprintf(last, sizeof last, form, when, "Connection: close\r\n");
	for (int i = 1; i < MOST; i++)
		memcpy(answer + i * answer_len, answer, answer_len);
	answer_at = now;
}

// serve reads once and answers what is whole. It returns 0 when nothing was
// there to read, -1 when the connection was closed, 1 otherwise.
static int serve(int fd)
{
	static char input[3 + INPUT];
	struct conn *c = &conns[fd];
	char *from = input + 3 - c->kept;
	memcpy(from, c->tail, c->kept);
	ssize_t n = read(fd, input + 3, INPUT);
	if (n < 0 && errno == EAGAIN)
		return 0;
	if (n <= 0)
		goto gone;
	char *end = input + 3 + n, *at;
	int requests = 0;
	if (memmem(from, end - from, "\r\nConnection: close\r\n", 21))
		c->closing = 1;
	while ((at = memmem(from, end - from, "\r\n\r\n", 4)) != NULL)
		requests++, from = at + 4;
	c->kept = end - from < 3 ? end - from : 3;
	memcpy(c->tail, end - c->kept, c->kept);
	if (requests > 0 && c->closing) {
		(void)!write(fd, last, last_len); // whoever closes sends one request
		goto gone;
	}
	while (requests > 0) {
		int some = requests < MOST ? requests : MOST;
		// The answers are far smaller than a socket's buffer: a short write
		// is a client that does not read, which a benchmark's never is.
		if (write(fd, answer, some * answer_len) != (ssize_t)(some * answer_len))
			goto gone;
		requests -= some;
	}
	return 1;
gone:
	close(fd);
	return -1;
}

static void work(int listener)
{
	int ep = epoll_create1(EPOLL_CLOEXEC);
	struct epoll_event ev = {.events = EPOLLIN, .data.fd = listener}, events[BATCH];
	if (ep < 0 || epoll_ctl(ep, EPOLL_CTL_ADD, listener, &ev) < 0)
		die("epoll");
	for (;;) {
		int n = epoll_wait(ep, events, BATCH, -1);
		if (n < 0 && errno != EINTR)
			die("epoll_wait");
		date();
		for (int i = 0; i < n; i++) {
			int fd = events[i].data.fd;
			if (fd != listener) {
				serve(fd);
				continue;
			}
			while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
				if (fd >= MAXFD) {
					close(fd);
					continue;
				}
				conns[fd] = (struct conn){0};
				if (serve(fd) < 0) // with TCP_DEFER_ACCEPT the request is there
					continue;
				ev = (struct epoll_event){.events = EPOLLIN, .data.fd = fd};
				if (epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev) < 0)
					die("epoll_ctl");
			}
		}
	}
}

static int listen_on(int port)
{
	int one = 1, defer = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	struct sockaddr_in addr = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) < 0 ||
	    setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof one) < 0 ||
	    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one) < 0 ||
	    setsockopt(fd, IPPROTO_TCP, TCP_DEFER_ACCEPT, &defer, sizeof defer) < 0 ||
	    bind(fd, (struct sockaddr *)&addr, sizeof addr) < 0 || listen(fd, 4096) < 0)
		die("listen");
	return fd;
}

int main(int argc, char **argv)
{
	int port = argc == 3 ? atoi(argv[1]) : 0, workers = argc == 3 ? atoi(argv[2]) : 0;
	if (port < 1 || port > 65535 || workers < 1) {
		fprintf(stderr, "usage: loop PORT WORKERS\n");
		return 2;
	}
	struct rlimit files;
	getrlimit(RLIMIT_NOFILE, &files);
	files.rlim_cur = files.rlim_max;
	setrlimit(RLIMIT_NOFILE, &files);
	signal(SIGPIPE, SIG_IGN);
	for (int i = 0; i < workers; i++) {
		pid_t pid = fork();
		if (pid < 0)
			die("fork");
		if (pid == 0) {
			prctl(PR_SET_PDEATHSIG, SIGTERM);
			work(listen_on(port));
		}
	}
	wait(NULL); // none ends but by a fault
	return 1;
}
