/* A server that does not know of drover: a blocking accept on the sockets of
 * sd_listen_fds(3), a thread for each connection, READY=1 by sd_notify(3), and
 * TERM to finish what it has. */
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static volatile sig_atomic_t leaving;
static int busy;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t idle = PTHREAD_COND_INITIALIZER;

static void leave(int sig)
{
	(void)sig;
	leaving = 1;
	close(3); /* an accept that has not begun yet fails */
}

static void notify(const char *text)
{
	const char *name = getenv("NOTIFY_SOCKET");
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	if (!name || strlen(name) >= sizeof a.sun_path)
		return;
	memcpy(a.sun_path, name, strlen(name));
	if (name[0] == '@')
		a.sun_path[0] = 0;
	int fd = socket(AF_UNIX, SOCK_DGRAM, 0);
	if (sendto(fd, text, strlen(text), 0, (struct sockaddr *)&a, offsetof(struct sockaddr_un, sun_path) + strlen(name)) < 0)
		perror("notify");
	close(fd);
}

static void *answer(void *arg)
{
	int fd = (int)(long)arg;
	char in[4096];
	size_t n = 0;
	ssize_t got;
	while (n < sizeof in - 1 && (got = read(fd, in + n, sizeof in - 1 - n)) > 0) {
		n += got;
		in[n] = 0;
		if (strstr(in, "\r\n\r\n"))
			break;
	}
	if (!strncmp(in, "GET /slow", 9))
		usleep(200000);
	const char *out = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
	if (write(fd, out, strlen(out)) < 0)
		perror("write");
	close(fd);
	pthread_mutex_lock(&lock);
	busy--;
	pthread_cond_signal(&idle);
	pthread_mutex_unlock(&lock);
	return NULL;
}

int main(void)
{
	const char *pid = getenv("LISTEN_PID"), *fds = getenv("LISTEN_FDS");
	if (!pid || atoi(pid) != getpid() || !fds || atoi(fds) != 1) {
		fprintf(stderr, "LISTEN_PID=%s LISTEN_FDS=%s, but this is %d\n", pid, fds, getpid());
		return 1;
	}
	struct sigaction act = { .sa_handler = leave }; /* no SA_RESTART: it ends an accept */
	sigaction(SIGTERM, &act, NULL);
	signal(SIGPIPE, SIG_IGN);
	sigset_t term;
	sigemptyset(&term);
	sigaddset(&term, SIGTERM);
	notify("STATUS=warming up\n");
	notify("READY=1\nSTATUS=serving\nMAINPID=1\n");
	while (!leaving) {
		int fd = accept(3, NULL, NULL);
		if (fd < 0)
			continue;
		pthread_mutex_lock(&lock);
		busy++;
		pthread_mutex_unlock(&lock);
		pthread_t t;
		pthread_sigmask(SIG_BLOCK, &term, NULL); /* the thread inherits it */
		if (pthread_create(&t, NULL, answer, (void *)(long)fd))
			abort();
		pthread_sigmask(SIG_UNBLOCK, &term, NULL);
		pthread_detach(t);
	}
	pthread_mutex_lock(&lock);
	while (busy)
		pthread_cond_wait(&idle, &lock);
	pthread_mutex_unlock(&lock);
	return 0;
}
