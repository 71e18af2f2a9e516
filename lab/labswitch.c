// SPDX-License-Identifier: Apache-2.0
// The lab's layer 2 switch: networks of hosts over unix datagram sockets, one frame a datagram, as
// QEMU's `-netdev dgram` speaks them, or over tap interfaces. Commands come as lines on standard
// input, each answered by one line on standard output; it ends with its input. `lab` is its only
// user.
//
//   port NET NAME RX TX    NAME sends its frames to the socket RX and receives them on TX
//   tap NET NAME IFNAME    NAME is what uses the tap interface IFNAME, which is made here; again:
//   anew mute NET NAME on|off   a host that is dead or frozen: nothing from it, nothing to it cut
//   NET FROM TO        frames from FROM no longer reach TO ("*" is any, also for NET) heal NET FROM
//   TO       the reverse; delay and loss are undone by setting 0 delay NET TO USEC      frames to
//   TO arrive that much later loss NET TO PERMILLE pcap NET PATH|off      records what hosts put on
//   the wire, also what a cut then swallows stats                  "NET NAME received=FRAMES
//   sent=FRAMES dropped=FRAMES ...;"
//
// A cut takes effect when a frame is delivered, so frames under way are lost with the link.
// The peer's socket may vanish and come back (a host killed and started): frames for it are
// dropped meanwhile, like by a switch whose port has no cable.
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define NETS_MAX   8
#define PORTS_MAX  16
#define MACS_MAX   64
#define FRAME_MAX  70000
#define BATCH      32
#define QUEUE_MAX  (4u << 20)
#define SNAP_BYTES 262144

struct frame {
	struct frame *next;
	int64_t due;
	int from;
	uint32_t len;
	uint8_t data[];
};

struct port {
	char name[32];
	char tx_path[sizeof(((struct sockaddr_un *)0)->sun_path)];
	int rx, tx; // a tap is both
	bool tx_connected, mute;
	struct frame *head, **tail;
	size_t queued;
	int64_t delay_ns;
	unsigned loss_permille;
	unsigned long received, sent, dropped;
};

struct mac {
	uint8_t addr[6];
	int port;
};

struct net {
	char name[32];
	struct port ports[PORTS_MAX];
	int nports;
	bool cut[PORTS_MAX][PORTS_MAX];
	struct mac macs[MACS_MAX];
	unsigned nmacs, mac_victim;
	FILE *pcap;
};

struct lab_switch {
	struct net nets[NETS_MAX];
	int nnets;
	unsigned seed;
	char input[4096];
	size_t input_len;
};

static int64_t clock_ns(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

// ---- delivery

static void port_queue_drop(struct port *p)
{
	while (p->head) {
		struct frame *f = p->head;

		p->head = f->next;
		p->queued -= f->len;
		p->dropped++;
		free(f);
	}
	p->tail = &p->head;
}

static int port_connect(struct port *p)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};

	if (!p->tx_path[0])
		return -ENETDOWN;
	memcpy(addr.sun_path, p->tx_path, sizeof(addr.sun_path));
	p->tx_connected = !connect(p->tx, (struct sockaddr *)&addr, sizeof(addr));
	return p->tx_connected ? 0 : -errno;
}

// A host that was killed and started has bound its socket anew, which the old connection does not
// see but refuses: one fresh connection is tried.
static int port_send(struct port *p, const uint8_t *data, size_t len)
{
	for (int attempt = 0; attempt < 2; attempt++) {
		int rc = p->tx_connected ? 0 : port_connect(p);

		if (rc)
			return rc;
		if (write(p->tx, data, len) >= 0)
			return 0;
		if (errno != ECONNREFUSED && errno != ENOTCONN && errno != EPIPE)
			return -errno;
		p->tx_connected = false;
	}
	return -ECONNREFUSED;
}

static void port_enqueue(struct port *p, int from, const uint8_t *data, size_t len, int64_t due)
{
	struct frame *f = p->queued + len > QUEUE_MAX ? NULL : malloc(sizeof(*f) + len);

	if (!f) {
		p->dropped++;
		return;
	}
	*f = (struct frame){.due = due, .from = from, .len = (uint32_t)len};
	memcpy(f->data, data, len);
	*p->tail = f;
	p->tail = &f->next;
	p->queued += len;
}

static bool link_down(const struct net *n, int from, int to)
{
	return n->cut[from][to] || n->ports[from].mute || n->ports[to].mute;
}

static void port_deliver(struct net *n, int from, int to, const uint8_t *data, size_t len)
{
	struct port *p = &n->ports[to];
	int rc;

	if (p->head || p->delay_ns) {
		int64_t now = clock_ns(CLOCK_MONOTONIC);

		port_enqueue(p, from, data, len, p->delay_ns ? now + p->delay_ns : 0);
		return;
	}
	rc = link_down(n, from, to) ? -ENETDOWN : port_send(p, data, len);
	if (rc == -EAGAIN)
		port_enqueue(p, from, data, len, 0);
	else if (rc)
		p->dropped++;
	else
		p->sent++;
}

static void port_queue_run(struct net *n, int to, int64_t now)
{
	struct port *p = &n->ports[to];

	while (p->head && p->head->due <= now) {
		struct frame *f = p->head;
		int rc = link_down(n, f->from, to) ? -ENETDOWN : port_send(p, f->data, f->len);

		if (rc == -EAGAIN)
			return;
		if (rc == -ECONNREFUSED || rc == -ENOENT) {
			port_queue_drop(p);
			return;
		}
		p->sent += !rc;
		p->dropped += !!rc;
		p->head = f->next;
		p->queued -= f->len;
		if (!p->head)
			p->tail = &p->head;
		free(f);
	}
}

// ---- forwarding

static void mac_learn(struct net *n, const uint8_t *addr, int port)
{
	if (addr[0] & 1)
		return;
	for (unsigned i = 0; i < n->nmacs; i++) {
		if (!memcmp(n->macs[i].addr, addr, 6)) {
			n->macs[i].port = port;
			return;
		}
	}
	struct mac *m = &n->macs[n->nmacs < MACS_MAX ? n->nmacs++ : n->mac_victim++ % MACS_MAX];

	memcpy(m->addr, addr, 6);
	m->port = port;
}

static int mac_find(const struct net *n, const uint8_t *addr)
{
	for (unsigned i = 0; !(addr[0] & 1) && i < n->nmacs; i++) {
		if (!memcmp(n->macs[i].addr, addr, 6))
			return n->macs[i].port;
	}
	return -1;
}

static bool frame_lost(struct lab_switch *s, struct port *to)
{
	if (!to->loss_permille || (unsigned)rand_r(&s->seed) % 1000 >= to->loss_permille)
		return false;
	to->dropped++;
	return true;
}

static void pcap_write(FILE *pcap, const uint8_t *data, size_t len)
{
	int64_t now = clock_ns(CLOCK_REALTIME);
	uint32_t head[4] = {(uint32_t)(now / 1000000000), (uint32_t)(now % 1000000000),
			    (uint32_t)len, (uint32_t)len};

	fwrite(head, sizeof(head), 1, pcap);
	fwrite(data, len, 1, pcap);
}

// A host whose every way out is cut must not draw traffic to its port either: only frames that
// get through to somebody teach the switch where a MAC address lives.
static void frame_forward(struct lab_switch *s, struct net *n, int from, const uint8_t *data,
			  size_t len)
{
	int only = mac_find(n, data);
	bool heard = false;

	if (n->pcap)
		pcap_write(n->pcap, data, len);
	for (int to = 0; to < n->nports; to++) {
		if (to == from)
			continue;
		heard |= !link_down(n, from, to);
		if ((only < 0 || only == to) && !frame_lost(s, &n->ports[to]))
			port_deliver(n, from, to, data, len);
	}
	if (heard)
		mac_learn(n, data + 6, from);
}

static void tap_close(struct port *p)
{
	if (p->rx >= 0)
		close(p->rx);
	p->rx = p->tx = -1;
	p->tx_connected = false;
}

static void port_receive(struct lab_switch *s, struct net *n, int from)
{
	static uint8_t buf[FRAME_MAX];

	for (int i = 0; i < BATCH; i++) {
		ssize_t len = read(n->ports[from].rx, buf, sizeof(buf));

		// The interface went with the host's network namespace.
		if (len < 0 && errno == EBADFD)
			tap_close(&n->ports[from]);
		if (len < 0)
			return;
		if (len < 14 || n->ports[from].mute)
			continue;
		n->ports[from].received++;
		frame_forward(s, n, from, buf, (size_t)len);
	}
}

// ---- commands

static struct net *net_find(struct lab_switch *s, const char *name, bool make)
{
	for (int i = 0; i < s->nnets; i++) {
		if (!strcmp(s->nets[i].name, name))
			return &s->nets[i];
	}
	if (!make || s->nnets == NETS_MAX)
		return NULL;
	snprintf(s->nets[s->nnets].name, sizeof(s->nets[0].name), "%s", name);
	return &s->nets[s->nnets++];
}

static bool name_matches(const char *pattern, const char *name)
{
	return !strcmp(pattern, "*") || !strcmp(pattern, name);
}

static int socket_bound(const char *path)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), size = 4 << 20;

	if (fd < 0)
		return -errno;
	if (strlen(path) >= sizeof(addr.sun_path)) {
		close(fd);
		return -ENAMETOOLONG;
	}
	strcpy(addr.sun_path, path);
	unlink(path);
	setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
	if (bind(fd, (struct sockaddr *)&addr, sizeof(addr))) {
		int rc = -errno;

		close(fd);
		return rc;
	}
	return fd;
}

// A place for a port; it counts once n->nports does.
static struct port *port_new(struct net *n, const char *name)
{
	struct port *p = n && n->nports < PORTS_MAX ? &n->ports[n->nports] : NULL;

	if (!p)
		return NULL;
	snprintf(p->name, sizeof(p->name), "%s", name);
	p->tail = &p->head;
	p->rx = p->tx = -1;
	return p;
}

static struct port *port_find(struct net *n, const char *name)
{
	for (int i = 0; n && i < n->nports; i++) {
		if (!strcmp(n->ports[i].name, name))
			return &n->ports[i];
	}
	return NULL;
}

static int command_port(struct lab_switch *s, char **arg)
{
	struct net *n = net_find(s, arg[1], true);
	struct port *p = port_new(n, arg[2]);
	int size = 4 << 20;

	if (!p || strlen(arg[4]) >= sizeof(p->tx_path))
		return -ENOSPC;
	strcpy(p->tx_path, arg[4]);
	p->rx = socket_bound(arg[3]);
	if (p->rx < 0)
		return p->rx;
	p->tx = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (p->tx < 0) {
		close(p->rx);
		return -errno;
	}
	setsockopt(p->tx, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
	n->nports++;
	return 0;
}

static int tap_open(const char *interface)
{
	struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI};
	int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	if (strlen(interface) >= sizeof(request.ifr_name)) {
		close(fd);
		return -ENAMETOOLONG;
	}
	strcpy(request.ifr_name, interface);
	if (ioctl(fd, TUNSETIFF, &request)) {
		int rc = -errno;

		close(fd);
		return rc;
	}
	return fd;
}

// The interface may move to another network namespace and be named anew: the descriptor stays it.
static int command_tap(struct lab_switch *s, char **arg)
{
	struct net *n = net_find(s, arg[1], true);
	struct port *p = port_find(n, arg[2]);
	bool old = p;

	if (!old)
		p = port_new(n, arg[2]);
	if (!p)
		return -ENOSPC;
	tap_close(p);
	port_queue_drop(p);
	p->rx = p->tx = tap_open(arg[3]);
	p->mute = false;
	p->tx_connected = p->tx >= 0;
	if (p->tx < 0)
		return p->tx;
	n->nports += !old;
	return 0;
}

static int command_mute(struct lab_switch *s, char **arg)
{
	struct port *p = port_find(net_find(s, arg[1], false), arg[2]);

	if (!p)
		return -ENODEV;
	p->mute = !strcmp(arg[3], "on");
	return 0;
}

static int links_set(struct lab_switch *s, char **arg, bool cut)
{
	int matched = 0;

	for (struct net *n = s->nets; n < s->nets + s->nnets; n++) {
		for (int k = 0; k < n->nports * n->nports; k++) {
			int from = k / n->nports, to = k % n->nports;

			if (!name_matches(arg[1], n->name) ||
			    !name_matches(arg[2], n->ports[from].name) ||
			    !name_matches(arg[3], n->ports[to].name))
				continue;
			n->cut[from][to] = cut;
			matched++;
		}
	}
	return matched ? 0 : -ENODEV;
}

static int command_cut(struct lab_switch *s, char **arg)
{
	return links_set(s, arg, true);
}

static int command_heal(struct lab_switch *s, char **arg)
{
	return links_set(s, arg, false);
}

static int ports_set(struct lab_switch *s, char **arg, void (*set)(struct port *, long))
{
	char *end;
	long value = strtol(arg[3], &end, 10);
	int matched = 0;

	if (*end || end == arg[3] || value < 0)
		return -EINVAL;
	for (struct net *n = s->nets; n < s->nets + s->nnets; n++) {
		for (struct port *p = n->ports; p < n->ports + n->nports; p++) {
			if (!name_matches(arg[1], n->name) || !name_matches(arg[2], p->name))
				continue;
			set(p, value);
			matched++;
		}
	}
	return matched ? 0 : -ENODEV;
}

static void port_set_delay(struct port *p, long usec)
{
	p->delay_ns = usec * INT64_C(1000);
}

static void port_set_loss(struct port *p, long permille)
{
	p->loss_permille = (unsigned)permille;
}

static int command_delay(struct lab_switch *s, char **arg)
{
	return ports_set(s, arg, port_set_delay);
}

static int command_loss(struct lab_switch *s, char **arg)
{
	return ports_set(s, arg, port_set_loss);
}

// The nanosecond variety of the classic pcap format, LINKTYPE_ETHERNET.
static int command_pcap(struct lab_switch *s, char **arg)
{
	const uint32_t head[6] = {0xa1b23c4d, 4u << 16 | 2, 0, 0, SNAP_BYTES, 1};
	struct net *n = net_find(s, arg[1], false);

	if (!n)
		return -ENODEV;
	if (n->pcap)
		fclose(n->pcap);
	n->pcap = NULL;
	if (!strcmp(arg[2], "off"))
		return 0;
	n->pcap = fopen(arg[2], "we");
	if (!n->pcap)
		return -errno;
	setvbuf(n->pcap, NULL, _IOFBF, 1 << 20);
	return fwrite(head, sizeof(head), 1, n->pcap) == 1 ? 0 : -EIO;
}

static int command_stats(struct lab_switch *s, char **arg)
{
	(void)arg;
	printf("ok ");
	for (struct net *n = s->nets; n < s->nets + s->nnets; n++) {
		for (struct port *p = n->ports; p < n->ports + n->nports; p++) {
			printf("%s %s received=%lu sent=%lu dropped=%lu queued=%zu;", n->name,
			       p->name, p->received, p->sent, p->dropped, p->queued);
		}
	}
	printf("\n");
	return 1;
}

static const struct {
	const char *name;
	int args;
	int (*run)(struct lab_switch *s, char **arg); // 1: has answered itself
} commands[] = {
	{"port", 5, command_port}, {"tap", 4, command_tap},   {"mute", 4, command_mute},
	{"cut", 4, command_cut},   {"heal", 4, command_heal}, {"delay", 4, command_delay},
	{"loss", 4, command_loss}, {"pcap", 3, command_pcap}, {"stats", 1, command_stats},
};

static void command_run(struct lab_switch *s, char *line)
{
	char *arg[6] = {NULL}, *save = NULL;
	int n = 0, rc = -ENOSYS;

	for (char *w = strtok_r(line, " ", &save); w && n < 6; w = strtok_r(NULL, " ", &save))
		arg[n++] = w;
	for (size_t i = 0; n && i < sizeof(commands) / sizeof(commands[0]); i++) {
		if (!strcmp(commands[i].name, arg[0]))
			rc = commands[i].args == n ? commands[i].run(s, arg) : -EINVAL;
	}
	if (rc < 0)
		printf("error %s\n", strerror(-rc));
	else if (!rc)
		printf("ok\n");
	fflush(stdout);
}

// Returns false at the end of the input.
static bool commands_read(struct lab_switch *s)
{
	ssize_t got = read(STDIN_FILENO, s->input + s->input_len, sizeof(s->input) - s->input_len);
	char *line = s->input, *end;

	if (got <= 0 && !(got < 0 && errno == EINTR))
		return false;
	s->input_len += got > 0 ? (size_t)got : 0;
	while ((end = memchr(line, '\n', (size_t)(s->input + s->input_len - line)))) {
		*end = '\0';
		command_run(s, line);
		line = end + 1;
	}
	s->input_len -= (size_t)(line - s->input);
	memmove(s->input, line, s->input_len);
	return s->input_len < sizeof(s->input);
}

// ---- the loop

struct watch {
	struct pollfd fds[1 + 2 * NETS_MAX * PORTS_MAX];
	nfds_t count;
	int64_t next_due; // -1: none
};

static void port_watch(struct watch *w, const struct port *p, int64_t now)
{
	bool ready = p->head && p->head->due <= now;

	w->fds[w->count++] = (struct pollfd){.fd = p->rx, .events = POLLIN};
	w->fds[w->count++] = (struct pollfd){.fd = ready ? p->tx : -1, .events = POLLOUT};
	if (p->head && !ready && (w->next_due < 0 || p->head->due < w->next_due))
		w->next_due = p->head->due;
}

static void watch_wait(struct lab_switch *s, struct watch *w)
{
	int64_t now = clock_ns(CLOCK_MONOTONIC), left;
	struct timespec wait;

	w->count = 0;
	w->next_due = -1;
	w->fds[w->count++] = (struct pollfd){.fd = STDIN_FILENO, .events = POLLIN};
	for (struct net *n = s->nets; n < s->nets + s->nnets; n++) {
		if (n->pcap)
			fflush(n->pcap);
		for (int i = 0; i < n->nports; i++)
			port_watch(w, &n->ports[i], now);
	}
	left = w->next_due - now;
	wait = (struct timespec){.tv_sec = left / 1000000000, .tv_nsec = left % 1000000000};
	if (ppoll(w->fds, w->count, w->next_due < 0 ? NULL : &wait, NULL) < 0)
		w->count = 0;
}

static void switch_run(struct lab_switch *s)
{
	static struct watch w;

	for (;;) {
		watch_wait(s, &w);
		int64_t now = clock_ns(CLOCK_MONOTONIC);
		nfds_t at = 1;

		for (struct net *n = s->nets; w.count && n < s->nets + s->nnets; n++) {
			for (int i = 0; i < n->nports; i++, at += 2) {
				if (w.fds[at].revents)
					port_receive(s, n, i);
				if (n->ports[i].head)
					port_queue_run(n, i, now);
			}
		}
		// Last: a new port must not shift the places that this round looks at.
		if (w.count && w.fds[0].revents && !commands_read(s))
			return;
	}
}

int main(void)
{
	static struct lab_switch s = {.seed = 1};

	signal(SIGPIPE, SIG_IGN);
	switch_run(&s);
	return 0;
}
