// SPDX-License-Identifier: Apache-2.0
#include "vm-process/vm-process.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define SEND_PATIENCE_MS 1000

union control_space {
	struct cmsghdr align;
	char bytes[CMSG_SPACE(sizeof(int) * CONTROL_FDS_MAX)];
};

static void fds_attach(struct msghdr *m, union control_space *space, const int *fds, unsigned count)
{
	struct cmsghdr *c;

	if (!count)
		return;
	memset(space, 0, sizeof *space);
	m->msg_control = space->bytes;
	m->msg_controllen = CMSG_SPACE(sizeof(int) * count);
	c = CMSG_FIRSTHDR(m);
	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(int) * count);
	memcpy(CMSG_DATA(c), fds, sizeof(int) * count);
}

static int packet_send(int fd, const struct msghdr *m)
{
	struct pollfd p = {.fd = fd, .events = POLLOUT};

	for (;;) {
		if (sendmsg(fd, m, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0)
			return 0;
		if (errno == EINTR)
			continue;
		if (errno != EAGAIN)
			return -errno;
		if (poll(&p, 1, SEND_PATIENCE_MS) == 0)
			return -ETIMEDOUT;
	}
}

int control_send(int fd, const json_t *message, const int *fds, unsigned fd_count)
{
	union control_space space;
	struct iovec iov;
	struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};
	char *text;
	int rc = -EMSGSIZE;

	if (fd_count > CONTROL_FDS_MAX)
		return -EINVAL;
	text = json_dumps(message, JSON_COMPACT);
	if (!text)
		return -ENOMEM;
	iov = (struct iovec){text, strlen(text)};
	fds_attach(&m, &space, fds, fd_count);
	if (iov.iov_len <= CONTROL_MESSAGE_MAX)
		rc = packet_send(fd, &m);
	free(text);
	return rc;
}

static void fds_close(const int *fds, unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		close(fds[i]);
}

/* Collects the descriptors of a message; those past CONTROL_FDS_MAX do not fit in
 * the control space, the kernel has closed them and set MSG_CTRUNC. */
static unsigned fds_collect(struct msghdr *m, int fds[CONTROL_FDS_MAX])
{
	unsigned count = 0;

	for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c)) {
		unsigned n;

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		n = (unsigned)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
		memcpy(fds + count, CMSG_DATA(c), sizeof(int) * n);
		count += n;
	}
	return count;
}

static int message_parse(const char *text, size_t n, json_t **out, struct error *e)
{
	json_error_t je;

	*out = json_loadb(text, n, JSON_REJECT_DUPLICATES, &je);
	if (*out && json_is_object(*out))
		return 0;
	json_decref(*out);
	*out = NULL;
	return error_set(e, -EBADMSG, "control message is not a JSON object: %s", je.text);
}

int control_receive(int fd, json_t **out, int fds[CONTROL_FDS_MAX], unsigned *fd_count,
		    struct error *e)
{
	union control_space space;
	char *text = malloc(CONTROL_MESSAGE_MAX);
	struct iovec iov = {text, CONTROL_MESSAGE_MAX};
	struct msghdr m = {.msg_iov = &iov,
			   .msg_iovlen = 1,
			   .msg_control = space.bytes,
			   .msg_controllen = sizeof space.bytes};
	ssize_t n;
	int rc;

	*out = NULL;
	*fd_count = 0;
	if (!text)
		return error_set(e, -ENOMEM, "no memory for a control message");
	do
		n = recvmsg(fd, &m, MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	if (n < 0) {
		rc = -errno;
		goto out_text;
	}
	*fd_count = fds_collect(&m, fds);
	if (n == 0)
		rc = -EPIPE;
	else if (m.msg_flags & (MSG_TRUNC | MSG_CTRUNC))
		rc = error_set(e, -EBADMSG,
			       "control message is too long or has too many descriptors");
	else
		rc = message_parse(text, (size_t)n, out, e);
	if (rc) {
		fds_close(fds, *fd_count);
		*fd_count = 0;
	}
out_text:
	free(text);
	return rc;
}
