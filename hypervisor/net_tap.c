// SPDX-License-Identifier: Apache-2.0
/* A tap interface, made if it is not there, up, and a port of a bridge if one is named. */
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <linux/sockios.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "hypervisor/net_port.h"

#define BATCH 64u /* frames read in a row before others get their turn */

struct tap {
	struct net_port port;
	size_t held; /* length of a frame that the guest had no room for; 0 = none */
	uint8_t frame[NET_FRAME_MOST];
};

static struct tap *tap_of(struct net_backend *b)
{
	return CONTAINER_OF(b, struct tap, port.base);
}

static int tap_send(struct net_backend *b, const struct iovec *iov, int iov_count)
{
	struct net_port *p = &tap_of(b)->port;

	if (writev(p->fd, iov, iov_count) >= 0)
		return 0;
	if (errno != EAGAIN)
		return -errno;
	net_port_block(p);
	return -EAGAIN;
}

static void tap_input(struct net_port *p)
{
	struct tap *t = CONTAINER_OF(p, struct tap, port);

	for (unsigned i = 0; i < BATCH; i++) {
		ssize_t n = (ssize_t)t->held;
		if (!n)
			n = read(p->fd, t->frame, sizeof(t->frame));
		if (n < 0 && errno != EAGAIN && errno != EINTR && errno != EIO)
			net_port_break(p, "its tap interface was taken away");
		if (n <= 0)
			return;
		t->held = net_port_deliver(p, t->frame, (size_t)n) == -EAGAIN ? (size_t)n : 0;
		if (t->held)
			return;
	}
}

static bool tap_output(struct net_port *p)
{
	return true;
}

static void tap_destroy(struct net_backend *b)
{
	net_port_close(&tap_of(b)->port);
	free(tap_of(b));
}

static const struct net_backend_ops tap_ops = {tap_send, net_port_set_receiving, tap_destroy};
static const struct net_port_ops tap_port_ops = {tap_input, tap_output};

/* ---- the interface ------------------------------------------------------------------- */

static int tap_attach(const char *name, int *out, struct error *e)
{
	struct ifreq r = {.ifr_flags = IFF_TAP | IFF_NO_PI};
	int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
	int rc;

	if (fd < 0)
		return error_set(e, -errno, "cannot open /dev/net/tun: %s", strerror(errno));
	memcpy(r.ifr_name, name, strnlen(name, IFNAMSIZ - 1));
	if (ioctl(fd, TUNSETIFF, &r)) {
		rc = error_set(e, -errno, "cannot use the tap interface '%s': %s", name,
			       strerror(errno));
		close(fd);
		return rc;
	}
	/* Whoever used it before may have promised to finish checksums and segments. */
	if (ioctl(fd, TUNSETOFFLOAD, 0UL)) {
		rc = error_set(e, -errno, "cannot turn off the offloads of '%s': %s", name,
			       strerror(errno));
		close(fd);
		return rc;
	}
	*out = fd;
	return 0;
}

static int interface_up(int control, const char *name, struct error *e)
{
	struct ifreq r = {0};

	memcpy(r.ifr_name, name, strnlen(name, IFNAMSIZ - 1));
	if (ioctl(control, SIOCGIFFLAGS, &r))
		return error_set(e, -errno, "cannot look at '%s': %s", name, strerror(errno));
	if (r.ifr_flags & IFF_UP)
		return 0;
	r.ifr_flags |= IFF_UP;
	if (ioctl(control, SIOCSIFFLAGS, &r))
		return error_set(e, -errno, "cannot turn '%s' on: %s", name, strerror(errno));
	return 0;
}

static int bridge_join(int control, const char *bridge, const char *name, struct error *e)
{
	struct ifreq port = {0}, r = {0};

	memcpy(port.ifr_name, name, strnlen(name, IFNAMSIZ - 1));
	memcpy(r.ifr_name, bridge, strnlen(bridge, IFNAMSIZ - 1));
	if (ioctl(control, SIOCGIFINDEX, &port))
		return error_set(e, -errno, "cannot look at '%s': %s", name, strerror(errno));
	r.ifr_ifindex = port.ifr_ifindex;
	/* EBUSY: it is a port already; of another bridge, the administrator meant that one. */
	if (ioctl(control, SIOCBRADDIF, &r) && errno != EBUSY)
		return error_set(e, -errno, "'%s' cannot join the bridge '%s': %s", name, bridge,
				 strerror(errno));
	return 0;
}

static int interface_set(const struct nic_config *c, struct error *e)
{
	int control = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	int rc;

	if (control < 0)
		return error_set(e, -errno, "network: %s", strerror(errno));
	rc = c->bridge[0] ? bridge_join(control, c->bridge, c->tap, e) : 0;
	if (!rc)
		rc = interface_up(control, c->tap, e);
	close(control);
	return rc;
}

static int tap_make(const struct nic_config *c, struct loop *io, struct net_backend **out,
		    struct error *e)
{
	struct tap *t = calloc(1, sizeof(*t));
	int rc;

	if (!t)
		return error_set(e, -ENOMEM, "network: out of memory");
	t->port.base.ops = &tap_ops;
	rc = net_port_open(&t->port, io, &tap_port_ops, e);
	if (rc)
		tap_destroy(&t->port.base);
	else
		*out = &t->port.base;
	return rc;
}

static int tap_connect(struct net_backend *b, const struct nic_config *c, struct error *e)
{
	int fd = -1, rc = tap_attach(c->tap, &fd, e);

	if (rc)
		return rc;
	net_port_attach(&tap_of(b)->port, fd);
	return interface_set(c, e);
}

/* ---- from process to process ---------------------------------------------------------- */

static int tap_yield(struct net_backend *b, struct buf *out)
{
	buf_put(out, tap_of(b)->frame, tap_of(b)->held);
	return tap_of(b)->port.fd;
}

static int tap_adopt(struct net_backend *b, int fd, struct cursor in)
{
	struct tap *t = tap_of(b);

	if (fd < 0 || in.left > sizeof(t->frame))
		return -EBADMSG;
	t->held = in.left;
	cursor_copy(&in, t->frame, in.left);
	net_port_attach(&t->port, fd);
	net_port_set_receiving(b, true); /* the descriptor does not announce that frame */
	return 0;
}

const struct net_kind net_tap = {tap_make, tap_connect, tap_yield, tap_adopt};
