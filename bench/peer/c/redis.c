// A stand-in for Redis: whatever is asked, the answer is one bulk string. It is
// there so that a handler has a round trip to make, and its own time is in no
// figure.
//
//	redis PORT
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BATCH = 256, MOST = 256 };

static const char one[] = "$13\r\nHello, World!\r\n";
enum { LEN = sizeof one - 1 };

static void die(const char *what)
{
	fprintf(stderr, "redis: %s: %s\n", what, strerror(errno));
	exit(1);
}

int main(int argc, char **argv)
{
	int on = 1, port = argc == 2 ? atoi(argv[1]) : 0;
	static char input[65536], answers[MOST * LEN];
	if (port < 1 || port > 65535) {
		fprintf(stderr, "usage: redis PORT\n");
		return 2;
	}
	signal(SIGPIPE, SIG_IGN);
	for (int i = 0; i < MOST; i++)
		memcpy(answers + i * LEN, one, LEN);
	int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), ep = epoll_create1(EPOLL_CLOEXEC);
	struct sockaddr_in addr = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	struct epoll_event ev = {.events = EPOLLIN, .data.fd = listener}, events[BATCH];
	if (listener < 0 || ep < 0 || setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) < 0 ||
	    setsockopt(listener, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) < 0 ||
	    bind(listener, (struct sockaddr *)&addr, sizeof addr) < 0 || listen(listener, 4096) < 0 ||
	    epoll_ctl(ep, EPOLL_CTL_ADD, listener, &ev) < 0)
		die("listen");
	for (;;) {
		int n = epoll_wait(ep, events, BATCH, -1);
		if (n < 0 && errno != EINTR)
			die("epoll_wait");
		for (int i = 0; i < n; i++) {
			int fd = events[i].data.fd;
			if (fd == listener) {
				while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
					ev = (struct epoll_event){.events = EPOLLIN, .data.fd = fd};
					if (epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev) < 0)
						die("epoll_ctl");
				}
				continue;
			}
			ssize_t got = read(fd, input, sizeof input);
			if (got < 0 && errno == EAGAIN)
				continue;
			int asked = 0; // a command begins with *, and no key of ours has one
			for (char *at = input; got > 0 && (at = memchr(at, '*', input + got - at)) != NULL; at++)
				asked++;
			if (got <= 0 || asked > MOST || (asked > 0 && write(fd, answers, asked * LEN) != asked * LEN))
				close(fd);
		}
	}
}
