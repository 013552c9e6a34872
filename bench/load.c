/* The servers behind a proxy and the clients in front of it, for bench/relay.py.
 *
 * Each mode is one thread around one epoll, so that it spends little beside what the sockets themselves cost. A client
 * prints one line of JSON when its time is over. Connections and requests that began before the warm-up ended are in
 * "all" but not in "ops": rates and latencies come from the window alone, a proxy's processor time from everything
 * that it was given to do.
 *
 *   load serve BASE ADDRESS...                    BASE echo, +1 endless download, +2 one answer, +3 UDP echo
 *   load sink PORT                                counts datagrams until standard input ends or has a line
 *   load bulk ADDRESS PORT STREAMS WARM SECONDS   downloads
 *   load connect ADDRESS PORT FLIGHT WARM SECONDS connect, 100 bytes, 1 KiB back, the server closes
 *   load request ADDRESS PORT CONNS WARM SECONDS  128 bytes there and back on connections that stay
 *   load idle ADDRESS PORT CONNS                  connections that were used once, until standard input has a line
 *   load udp ADDRESS PORT FLOWS WARM SECONDS      64 bytes there and back, one datagram of each flow on its way
 *   load gso ADDRESS PORT GBITS SECONDS           40 datagrams of 1200 bytes with each call, at a rate
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/udp.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { ECHO, DOWNLOAD, ANSWER, DATAGRAM, KINDS };
enum { ASKED = 100, ANSWERED = 1024, PINGED = 128, SMALL = 64, SEGMENT = 1200, SEGMENTS = 40 };
enum { BUFFER = 256 << 10, EVENTS = 256, BATCH = 64, BACKLOG = 16384 };
enum { PATIENCE = 10 /* seconds that one blocking step may take */, LOOK = 10 /* milliseconds */ };
#define LOST_AFTER 250000000ull /* nanoseconds until a datagram counts as lost */
#define STUCK_AFTER 1000000000ull

typedef struct {
    int fd;
    int kind;          /* of a server's socket */
    int listens;
    int open;          /* a client's that dials: it is connected and has asked */
    size_t got;        /* bytes of the present exchange */
    uint64_t began;    /* of the present exchange */
    uint64_t sequence; /* of the datagram that is on its way */
} Conn;

static char buffer[BUFFER];
static int queue;
static uint64_t started, window, end; /* of this measurement: warm-up, what counts, end */
static uint64_t ops, all, errors, lost;
static uint64_t histogram[64 << 5]; /* microseconds: 32 steps to each power of two */

static void die(const char *what) {
    fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
    exit(1);
}

static uint64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

static void record(uint64_t began, uint64_t ended) {
    uint64_t us = (ended - began) / 1000, size = 0;
    all++;
    if (began < window || ended > end) return;
    ops++;
    while (us >> size >= 32) size++;
    histogram[(size << 5) + (us >> size)]++;
}

static uint64_t percentile(double share) {
    uint64_t below = 0, limit = (uint64_t)((double)ops * share);
    for (size_t place = 0; place < sizeof histogram / sizeof *histogram; place++)
        if ((below += histogram[place]) > limit) return (uint64_t)(place & 31) << (place >> 5);
    return 0;
}

static void begin(double warm, double seconds) {
    started = now();
    window = started + (uint64_t)(warm * 1e9);
    end = window + (uint64_t)(seconds * 1e9);
}

static double busy(void) { /* the part of one processor that this process took since it began to measure */
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    double cpu = (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
                 (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
    return cpu / ((double)(now() - started) / 1e9);
}

static void report(uint64_t stuck) {
    double seconds = (double)(end - window) / 1e9;
    printf("{\"ops\": %lu, \"all\": %lu, \"seconds\": %.3f, \"p50_us\": %lu, \"p99_us\": %lu, \"errors\": %lu, "
           "\"lost\": %lu, \"stuck\": %lu, \"busy\": %.3f}\n",
           ops, all, seconds, percentile(0.50), percentile(0.99), errors, lost, stuck, busy());
}

static struct sockaddr_in address_of(const char *ip, int port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    if (inet_pton(AF_INET, ip, &address.sin_addr) != 1) { errno = EINVAL; die(ip); }
    return address;
}

static int sock(int type) {
    int fd = socket(AF_INET, type | SOCK_CLOEXEC, 0), on = 1;
    if (fd < 0) die("socket");
    if ((type & 0xf) == SOCK_STREAM) setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    return fd;
}

static int bound(int type, const char *ip, int port) {
    struct sockaddr_in address = address_of(ip, port);
    int fd = sock(type), on = 1, room = 4 << 20;
    if (type & SOCK_STREAM) setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    else setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &room, sizeof room);
    if (bind(fd, (struct sockaddr *)&address, sizeof address)) die("bind");
    return fd;
}

static void watch(Conn *conn, uint32_t events) {
    struct epoll_event event = {.events = events, .data.ptr = conn};
    if (epoll_ctl(queue, EPOLL_CTL_ADD, conn->fd, &event)) die("epoll_ctl");
}

/* Connects and waits for it. */
static void dial(Conn *conn, int type, struct sockaddr_in *address) {
    struct timeval patience = {.tv_sec = PATIENCE};
    conn->fd = sock(type);
    setsockopt(conn->fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience); /* holds for connect, too */
    setsockopt(conn->fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    if (connect(conn->fd, (struct sockaddr *)address, sizeof *address)) die("connect");
}

static Conn *conns_of(int count) {
    Conn *conns = calloc((size_t)count, sizeof *conns);
    if (!conns) die("memory");
    return conns;
}

/* --- servers ------------------------------------------------------------------------------------------------ */

static void drop(Conn *conn) {
    close(conn->fd);
    free(conn);
}

static void answer_all(Conn *conn) {
    for (;;) {
        int fd = accept4(conn->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC), on = 1;
        if (fd < 0) return;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        Conn *made = conns_of(1);
        made->fd = fd;
        made->kind = conn->kind;
        watch(made, made->kind == DOWNLOAD ? EPOLLOUT | EPOLLRDHUP : EPOLLIN);
    }
}

static int send_all(int fd, size_t size) {
    for (size_t sent = 0; sent < size;) {
        ssize_t count = send(fd, buffer + sent, size - sent, MSG_NOSIGNAL);
        if (count < 0 && errno != EAGAIN) return -1;
        if (count < 0) poll(&(struct pollfd){.fd = fd, .events = POLLOUT}, 1, PATIENCE * 1000);
        else sent += (size_t)count;
    }
    return 0;
}

static void serve_tcp(Conn *conn, uint32_t events) {
    if (conn->kind == DOWNLOAD) {
        ssize_t count = send(conn->fd, buffer, BUFFER, MSG_NOSIGNAL);
        if ((count < 0 && errno != EAGAIN) || events & (EPOLLRDHUP | EPOLLERR | EPOLLHUP)) drop(conn);
        return;
    }
    ssize_t count = recv(conn->fd, buffer, BUFFER, 0);
    if (count < 0 && errno == EAGAIN) return;
    if (count <= 0) { drop(conn); return; }
    conn->got += (size_t)count;
    if (conn->kind == ECHO) {
        if (send_all(conn->fd, (size_t)count)) drop(conn);
    } else if (conn->got >= ASKED) {
        send_all(conn->fd, ANSWERED);
        drop(conn);
    }
}

static void serve_udp(Conn *conn) {
    static struct sockaddr_in from[BATCH];
    static struct iovec parts[BATCH];
    static struct mmsghdr packets[BATCH];
    for (int place = 0; place < BATCH; place++) {
        parts[place] = (struct iovec){buffer + place * 2048, 2048};
        packets[place].msg_hdr = (struct msghdr){
            .msg_name = &from[place], .msg_namelen = sizeof *from, .msg_iov = &parts[place], .msg_iovlen = 1};
    }
    int count = recvmmsg(conn->fd, packets, BATCH, MSG_DONTWAIT, NULL);
    for (int place = 0; place < count; place++) parts[place].iov_len = packets[place].msg_len;
    for (int sent = 0; sent < count;) {
        int more = sendmmsg(conn->fd, packets + sent, (unsigned)(count - sent), 0);
        sent += more > 0 ? more : 1; /* what cannot be sent is skipped; its client counts it as lost */
    }
}

static void serve(int base, char **addresses) {
    for (; *addresses; addresses++)
        for (int kind = 0; kind < KINDS; kind++) {
            Conn *conn = conns_of(1);
            conn->kind = kind;
            conn->listens = kind != DATAGRAM;
            conn->fd = bound((kind == DATAGRAM ? SOCK_DGRAM : SOCK_STREAM) | SOCK_NONBLOCK, *addresses, base + kind);
            if (conn->listens && listen(conn->fd, BACKLOG)) die("listen");
            watch(conn, EPOLLIN);
        }
    puts("ready");
    fflush(stdout);
    for (;;) {
        struct epoll_event events[EVENTS];
        int count = epoll_wait(queue, events, EVENTS, -1);
        for (int place = 0; place < count; place++) {
            Conn *conn = events[place].data.ptr;
            if (conn->listens) answer_all(conn);
            else if (conn->kind == DATAGRAM) serve_udp(conn);
            else serve_tcp(conn, events[place].events);
        }
    }
}

static void sink(int port) {
    int fd = bound(SOCK_DGRAM, "0.0.0.0", port), on = 1;
    uint64_t bytes = 0, first = 0, last = 0;
    setsockopt(fd, IPPROTO_UDP, UDP_GRO, &on, sizeof on);
    puts("ready");
    fflush(stdout);
    for (;;) {
        struct pollfd ready[2] = {{.fd = fd, .events = POLLIN}, {.fd = 0, .events = POLLIN}};
        poll(ready, 2, -1);
        ssize_t count = ready[0].revents ? recv(fd, buffer, BUFFER, MSG_DONTWAIT) : -1;
        if (count > 0) {
            bytes += (uint64_t)count;
            last = now();
            if (!first) first = last;
        } else if (ready[1].revents) break;
    }
    printf("{\"bytes\": %lu, \"seconds\": %.3f}\n", bytes, (double)(last - first) / 1e9);
}

/* --- clients ------------------------------------------------------------------------------------------------ */

typedef void Step(Conn *conn, uint32_t events);
static struct sockaddr_in target;

static void run(Step *step, void (*between)(void)) {
    for (uint64_t time = now(); time < end; time = now()) {
        struct epoll_event events[EVENTS];
        int count = epoll_wait(queue, events, EVENTS, LOOK);
        for (int place = 0; place < count; place++) step(events[place].data.ptr, events[place].events);
        if (between) between();
    }
}

static void take(Conn *conn, uint32_t events) {
    (void)events;
    ssize_t count = recv(conn->fd, buffer, BUFFER, MSG_DONTWAIT);
    if (count < 0 && errno == EAGAIN) return;
    if (count <= 0) { errors++; close(conn->fd); return; }
    all += (uint64_t)count;
    if (now() >= window) ops += (uint64_t)count;
}

static void next_connection(Conn *conn) {
    conn->fd = sock(SOCK_STREAM | SOCK_NONBLOCK);
    conn->open = 0;
    conn->got = 0;
    conn->began = now();
    if (connect(conn->fd, (struct sockaddr *)&target, sizeof target) && errno != EINPROGRESS) die("connect");
    watch(conn, EPOLLIN | EPOLLOUT | EPOLLET);
}

static void ask_once(Conn *conn, uint32_t events) {
    if (!conn->open && events & EPOLLOUT && !(events & EPOLLERR)) {
        conn->open = 1;
        if (send(conn->fd, buffer, ASKED, MSG_NOSIGNAL) != ASKED) events |= EPOLLERR;
    }
    ssize_t count = 1;
    while (events & (EPOLLIN | EPOLLERR | EPOLLHUP) && (count = recv(conn->fd, buffer, BUFFER, 0)) > 0)
        conn->got += (size_t)count;
    if (count > 0 || (count < 0 && errno == EAGAIN && !(events & EPOLLERR))) return;
    if (count == 0 && conn->got == ANSWERED) record(conn->began, now());
    else errors++;
    close(conn->fd);
    next_connection(conn);
}

static void ask(Conn *conn) {
    conn->got = 0;
    conn->began = now();
    if (send(conn->fd, buffer, PINGED, MSG_NOSIGNAL) != PINGED) errors++;
}

static void ask_again(Conn *conn, uint32_t events) {
    (void)events;
    ssize_t count = recv(conn->fd, buffer, PINGED, MSG_DONTWAIT);
    if (count < 0 && errno == EAGAIN) return;
    if (count <= 0) { errors++; close(conn->fd); return; }
    conn->got += (size_t)count;
    if (conn->got < PINGED) return;
    record(conn->began, now());
    ask(conn);
}

static Conn *flows;
static int flow_count;

static void ping(Conn *conn) {
    conn->began = now();
    conn->sequence++;
    memcpy(buffer, &conn->sequence, sizeof conn->sequence);
    send(conn->fd, buffer, SMALL, MSG_DONTWAIT); /* a refusal of an earlier one is a loss, too, and counted as such */
}

static void ping_again(Conn *conn, uint32_t events) {
    (void)events;
    ssize_t count = recv(conn->fd, buffer, SMALL, MSG_DONTWAIT);
    if (count != SMALL || memcmp(buffer, &conn->sequence, sizeof conn->sequence)) return; /* a late one */
    record(conn->began, now());
    ping(conn);
}

static void look_for_losses(void) {
    static uint64_t looked;
    uint64_t time = now();
    if (time - looked < LOST_AFTER / 10) return;
    looked = time;
    for (int place = 0; place < flow_count; place++)
        if (time - flows[place].began > LOST_AFTER) {
            lost++;
            ping(&flows[place]);
        }
}

static void idle(int count) {
    Conn *conns = conns_of(count);
    int answered = 0;
    for (int turn = 0; turn < 2; turn++) {
        for (int place = 0; place < count; place++) {
            if (!turn) dial(&conns[place], SOCK_STREAM, &target);
            if (send(conns[place].fd, buffer, 1, MSG_NOSIGNAL) != 1) errors++;
        }
        for (int place = 0; place < count; place++) answered += turn && recv(conns[place].fd, buffer, 1, 0) == 1;
        for (int place = 0; place < count && !turn; place++)
            if (recv(conns[place].fd, buffer, 1, 0) != 1) die("a new connection was not answered");
        if (!turn) puts("open");
        fflush(stdout);
        if (!turn && read(0, buffer, 1) < 0) die("standard input");
    }
    printf("{\"connections\": %d, \"answered\": %d, \"errors\": %lu}\n", count, answered, errors);
}

static void gso(double gbits, double seconds) {
    uint64_t bytes = 0;
    int fd = sock(SOCK_DGRAM), size = SEGMENT, room = 4 << 20;
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &room, sizeof room);
    if (setsockopt(fd, IPPROTO_UDP, UDP_SEGMENT, &size, sizeof size)) die("UDP_SEGMENT");
    if (connect(fd, (struct sockaddr *)&target, sizeof target)) die("connect");
    begin(0, seconds);
    for (uint64_t time = started; time < end; time = now()) {
        if ((double)bytes * 8 < gbits * (double)(time - started)) {
            if (send(fd, buffer, SEGMENT * SEGMENTS, 0) > 0) bytes += SEGMENT * SEGMENTS;
            else errors++;
        } else usleep(100);
    }
    printf("{\"bytes\": %lu, \"seconds\": %.3f, \"errors\": %lu, \"busy\": %.3f}\n", bytes, seconds, errors, busy());
}

typedef struct {
    const char *name;
    int type;                /* of socket, that is connected beforehand; 0: the step dials */
    void (*first)(Conn *);   /* what each connection begins with */
    Step *step;              /* what it does with an event */
    void (*between)(void);
} Mode;

static const Mode modes[] = {
    {"bulk", SOCK_STREAM, NULL, take, NULL},
    {"connect", 0, next_connection, ask_once, NULL},
    {"request", SOCK_STREAM, ask, ask_again, NULL},
    {"udp", SOCK_DGRAM, ping, ping_again, look_for_losses},
};

static void measure(const Mode *mode, int count, double warm, double seconds) {
    uint64_t stuck = 0;
    flows = conns_of(count);
    flow_count = count;
    for (int place = 0; place < count && mode->type; place++) {
        dial(&flows[place], mode->type, &target);
        watch(&flows[place], EPOLLIN);
    }
    begin(warm, seconds);
    for (int place = 0; place < count && mode->first; place++) mode->first(&flows[place]);
    run(mode->step, mode->between);
    for (int place = 0; place < count; place++) stuck += !mode->type && flows[place].began + STUCK_AFTER < now();
    report(stuck);
}

int main(int argc, char **argv) {
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    memset(buffer, 'k', sizeof buffer);
    queue = epoll_create1(EPOLL_CLOEXEC);
    const char *mode = argc > 1 ? argv[1] : "";
    if (!strcmp(mode, "serve") && argc > 3) serve(atoi(argv[2]), argv + 3);
    else if (!strcmp(mode, "sink") && argc == 3) sink(atoi(argv[2]));
    else if (argc > 4) {
        target = address_of(argv[2], atoi(argv[3]));
        if (!strcmp(mode, "idle")) idle(atoi(argv[4]));
        else if (!strcmp(mode, "gso") && argc == 6) gso(atof(argv[4]), atof(argv[5]));
        for (size_t place = 0; argc == 7 && place < sizeof modes / sizeof *modes; place++)
            if (!strcmp(mode, modes[place].name)) measure(&modes[place], atoi(argv[4]), atof(argv[5]), atof(argv[6]));
    } else {
        fputs("load: what it can do is said at the head of load.c\n", stderr);
        return 2;
    }
    return 0;
}
