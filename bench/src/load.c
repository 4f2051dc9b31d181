/* A closed-loop HTTP/1.1 load generator: one thread, epoll, every sample kept, every answer checked.
 *
 *   load --port N --body FILE --mode json|sse [--conns 16] [--requests 20000] [--seconds 5] [--path /v1/chat/completions]
 *        [--events 51] [--verified 1] [--header 'Name: value']...
 *
 * Each connection sends its next request when the last answer is whole. It stops after --requests answers or --seconds,
 * whichever comes first; both always hold. An answer counts when its status is 200 and: JSON, the body holds "choices";
 * SSE, it held at least --events events and ended with data: [DONE] and its last chunk. With --verified 1 it must also
 * hold a verification that released it and asserts response_bound. Prints one JSON object. Loopback only, on purpose.
 */
#include "http.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/epoll.h>

/* ---- samples ---------------------------------------------------------------------------------------------------- */

typedef struct {
    double *us;
    size_t n, cap;
} samples;

static void sample(samples *s, uint64_t ns) {
    if (s->n == s->cap) {
        s->cap = s->cap ? 2 * s->cap : 4096;
        s->us = realloc(s->us, s->cap * sizeof *s->us);
        if (!s->us) die("out of memory");
    }
    s->us[s->n++] = (double)ns / 1e3;
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The nearest-rank percentile: the smallest sample that at least `part` of all samples do not exceed. */
static double percentile(const samples *s, double part) {
    if (!s->n) return 0;
    double exact = part * (double)s->n;
    size_t rank = (size_t)exact + ((double)(size_t)exact < exact);
    return s->us[rank ? rank - 1 : 0];
}

static void print_samples(const char *name, samples *s) {
    double sum = 0;
    qsort(s->us, s->n, sizeof *s->us, ascending);
    for (size_t i = 0; i < s->n; i++) sum += s->us[i];
    printf(",\"%s\":{\"n\":%zu,\"mean\":%.1f,\"p50\":%.1f,\"p90\":%.1f,\"p99\":%.1f,\"p999\":%.1f,\"max\":%.1f}", name, s->n,
           s->n ? sum / (double)s->n : 0, percentile(s, .5), percentile(s, .9), percentile(s, .99), percentile(s, .999),
           percentile(s, 1));
}

/* ---- one connection --------------------------------------------------------------------------------------------- */

enum part { HEAD, SIZED, CHUNK_SIZE, CHUNK_DATA, CHUNK_END, LAST_LINE };

typedef struct {
    int fd, busy, closing, status;
    enum part part;
    uint64_t begun, first, last;
    size_t sent, left;
    long events;
    int done;
    buffer in;   /* bytes not yet understood */
    buffer body; /* JSON: all of it; SSE: the line being read */
    int verified;
} connection;

static int port, sse, need_verified, poll_fd;
static long need_events = 1;
static buffer request;
static uint64_t started, answered, failed, bytes, events, reads, max_requests = 20000, deadline;
static char first_failure[256];
static samples latency, first_event, gap;

static void open_connection(connection *c) {
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in a = loopback(port);
    if (connect(c->fd, (void *)&a, sizeof a)) die("load: connect");
    no_delay(c->fd);
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
    epoll_ctl(poll_fd, EPOLL_CTL_ADD, c->fd, &e);
    c->in.len = 0;
}

static void push(connection *c) {
    while (c->sent < request.len) {
        ssize_t n = send(c->fd, request.data + c->sent, request.len - c->sent, MSG_NOSIGNAL);
        if (n < 0) {
            struct epoll_event e = {.events = EPOLLIN | EPOLLOUT, .data.ptr = c};
            if (errno == EAGAIN) epoll_ctl(poll_fd, EPOLL_CTL_MOD, c->fd, &e);
            return; /* any other error shows when reading */
        }
        c->sent += (size_t)n;
    }
}

static void begin(connection *c) {
    c->busy = started < max_requests && now_ns() < deadline;
    if (!c->busy) return;
    started++;
    c->part = HEAD;
    c->closing = c->status = c->done = c->verified = 0;
    c->events = 0;
    c->sent = c->left = c->body.len = 0;
    c->begun = now_ns();
    c->first = c->last = 0;
    push(c);
}

static void fail(connection *c, const char *why) {
    failed++;
    if (first_failure[0]) return;
    snprintf(first_failure, sizeof first_failure, "%s; status %d, %ld events: %.*s", why, c->status, c->events,
             (int)(c->body.len < 120 ? c->body.len : 120), c->body.len ? c->body.data : "");
    for (char *p = first_failure; *p; p++)
        if (*p == '"' || *p == '\\' || (unsigned char)*p < 32 || (unsigned char)*p > 126) *p = '\'';
}

static const char *fault(const connection *c) {
    if (c->status != 200) return "status is not 200";
    if (!sse && !memmem(c->body.data, c->body.len, "\"choices\"", 9)) return "no choices in the answer";
    if (sse && !c->done) return "the stream did not say [DONE]";
    if (sse && c->events < need_events) return "the stream was short";
    if (need_verified && !c->verified) return "no verification in the answer that released it";
    return NULL;
}

static int has(const char *data, size_t len, const char *text) { return memmem(data, len, text, strlen(text)) != NULL; }

static int verified(const char *data, size_t len) {
    return has(data, len, "\"verification\":{") && has(data, len, "\"release\":\"released\"") &&
           has(data, len, "\"response_bound\":\"asserted\"");
}

/* The answer is whole (`broken` NULL), or will never be. */
static void finish(connection *c, const char *broken) {
    uint64_t now = now_ns();
    if (!sse && c->body.len) c->verified = verified(c->body.data, c->body.len);
    const char *why = broken ? broken : fault(c);
    if (why) {
        fail(c, why);
    } else {
        answered++;
        events += (uint64_t)c->events;
        sample(&latency, now - c->begun);
    }
    c->busy = 0;
    if (c->closing || broken) {
        close(c->fd);
        if (failed > 100 && failed > answered) {
            c->fd = -1; /* something is wrong with the target: do not hammer it */
            return;
        }
        open_connection(c);
    }
    begin(c);
}

/* ---- reading ---------------------------------------------------------------------------------------------------- */

static void line(connection *c, const char *data, size_t len) {
    if (len < 5 || memcmp(data, "data:", 5)) return;
    if (len >= 12 && !memcmp(data, "data: [DONE]", 12)) {
        c->done = 1;
        return;
    }
    c->events++;
    if (need_verified && !c->verified) c->verified = verified(data, len);
}

static void take_body(connection *c, const char *data, size_t len) {
    bytes += len;
    if (!sse) {
        buffer_add(&c->body, data, len);
        return;
    }
    while (len) {
        const char *end = memchr(data, '\n', len);
        if (!end) {
            buffer_add(&c->body, data, len);
            return;
        }
        size_t n = (size_t)(end - data);
        if (c->body.len) {
            buffer_add(&c->body, data, n);
            line(c, c->body.data, c->body.len);
            c->body.len = 0;
        } else {
            line(c, data, n);
        }
        data += n + 1;
        len -= n + 1;
    }
}

static int take_head(connection *c) {
    char *end = memmem(c->in.data, c->in.len, "\r\n\r\n", 4);
    if (!end) return 0;
    size_t n;
    c->status = c->in.len > 12 ? atoi(c->in.data + 9) : 0;
    const char *value = header_value(c->in.data, end, "connection:", &n);
    c->closing = value && n >= 5 && !strncasecmp(value, "close", 5);
    value = header_value(c->in.data, end, "content-length:", &n);
    c->left = value ? strtoul(value, NULL, 10) : 0;
    c->part = value ? SIZED : CHUNK_SIZE;
    if (!value && !header_value(c->in.data, end, "transfer-encoding:", &n)) return -1;
    buffer_drop(&c->in, (size_t)(end + 4 - c->in.data));
    return 1;
}

/* Understands what has arrived. 1: the answer is whole, -1: it is broken, 0: more must come. */
static int take(connection *c) {
    size_t at = 0;
    int ended = 0;
    if (c->part == HEAD) {
        int r = take_head(c);
        if (r <= 0) return r;
        if (c->part == SIZED && !c->left) ended = 1;
    }
    while (!ended && at < c->in.len) {
        char *data = c->in.data + at;
        size_t have = c->in.len - at;
        if (c->part == SIZED || c->part == CHUNK_DATA) {
            size_t n = have < c->left ? have : c->left;
            take_body(c, data, n);
            at += n;
            c->left -= n;
            if (c->left) break;
            if (c->part == SIZED) ended = 1;
            c->part = CHUNK_END;
            continue;
        }
        char *end = memchr(data, '\n', have);
        if (!end) break;
        at += (size_t)(end + 1 - data);
        if (c->part == CHUNK_SIZE) {
            c->left = strtoul(data, NULL, 16);
            c->part = c->left ? CHUNK_DATA : LAST_LINE;
        } else if (c->part == CHUNK_END) {
            c->part = CHUNK_SIZE;
        } else {
            ended = 1; /* the empty line; nobody here sends trailers */
        }
    }
    buffer_drop(&c->in, at);
    if (ended && c->in.len) return -1;
    return ended;
}

static void arrived(connection *c) {
    for (;;) {
        buffer_reserve(&c->in, 65536);
        size_t room = c->in.cap - c->in.len;
        ssize_t n = recv(c->fd, c->in.data + c->in.len, room, 0);
        if (n < 0 && errno == EAGAIN) return;
        if (n <= 0) {
            if (c->busy) {
                finish(c, "the connection ended");
            } else {
                close(c->fd);
                c->fd = -1;
            }
            return;
        }
        c->in.len += (size_t)n;
        if (!c->busy) continue;
        long before = c->events;
        int r = take(c);
        if (sse && c->events > before) {
            uint64_t now = now_ns();
            reads++;
            if (c->first) sample(&gap, now - c->last);
            else c->first = now, sample(&first_event, now - c->begun);
            c->last = now;
        }
        if (r) {
            finish(c, r < 0 ? "the answer is not HTTP" : NULL);
            return;
        }
        if ((size_t)n < room) return;
    }
}

/* ---- the run ---------------------------------------------------------------------------------------------------- */

static void build_request(const char *path, const char *headers, const char *file) {
    buffer body = {0};
    FILE *f = fopen(file, "rb");
    if (!f) die(file);
    size_t n;
    do {
        buffer_reserve(&body, 65536);
        n = fread(body.data + body.len, 1, 65536, f);
        body.len += n;
    } while (n);
    fclose(f);
    char head[8192];
    snprintf(head, sizeof head,
             "POST %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nAccept: application/json\r\nContent-Type: application/json\r\n"
             "User-Agent: veriroute-bench\r\n%sContent-Length: %zu\r\n\r\n",
             path, port, headers, body.len);
    buffer_text(&request, head);
    buffer_add(&request, body.data, body.len);
    free(body.data);
}

int main(int argc, char **argv) {
    const char *path = "/v1/chat/completions", *body = NULL;
    double seconds = 5;
    int n_conns = 16;
    static char headers[4096];
    for (int i = 1; i + 1 < argc; i += 2) {
        const char *k = argv[i], *v = argv[i + 1];
        if (!strcmp(k, "--port")) port = atoi(v);
        else if (!strcmp(k, "--path")) path = v;
        else if (!strcmp(k, "--body")) body = v;
        else if (!strcmp(k, "--mode")) sse = !strcmp(v, "sse");
        else if (!strcmp(k, "--conns")) n_conns = atoi(v);
        else if (!strcmp(k, "--requests")) max_requests = strtoul(v, NULL, 10);
        else if (!strcmp(k, "--seconds")) seconds = atof(v);
        else if (!strcmp(k, "--events")) need_events = atol(v);
        else if (!strcmp(k, "--verified")) need_verified = atoi(v);
        else if (!strcmp(k, "--header") && strlen(headers) + strlen(v) + 3 < sizeof headers) strcat(strcat(headers, v), "\r\n");
        else fprintf(stderr, "load: unknown option %s\n", k), exit(2);
    }
    if (!port || !body || n_conns < 1) {
        fprintf(stderr, "usage: load --port N --body FILE --mode json|sse [--conns N] [--requests N] [--seconds S] ...\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    build_request(path, headers, body);
    poll_fd = epoll_create1(EPOLL_CLOEXEC);
    connection *all = calloc((size_t)n_conns, sizeof *all);
    for (int i = 0; i < n_conns; i++) open_connection(&all[i]);
    uint64_t start = now_ns();
    deadline = start + (uint64_t)(seconds * 1e9);
    for (int i = 0; i < n_conns; i++) begin(&all[i]);
    struct epoll_event ready[256];
    uint64_t patience = deadline + 30000000000u; /* answers under way may end; then the run is over */
    for (;;) {
        int busy = 0;
        for (int i = 0; i < n_conns; i++) busy += all[i].busy;
        if (!busy || now_ns() > patience) break;
        int n = epoll_wait(poll_fd, ready, 256, 1000);
        for (int i = 0; i < n; i++) {
            connection *c = ready[i].data.ptr;
            if (c->fd >= 0 && ready[i].events & EPOLLOUT) {
                struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
                epoll_ctl(poll_fd, EPOLL_CTL_MOD, c->fd, &e);
                push(c);
            }
            if (c->fd >= 0 && ready[i].events & ~(uint32_t)EPOLLOUT) arrived(c);
        }
    }
    for (int i = 0; i < n_conns; i++)
        if (all[i].busy) fail(&all[i], "no answer in time");
    double took = (double)(now_ns() - start) / 1e9;
    printf("{\"mode\":\"%s\",\"conns\":%d,\"ok\":%lu,\"failed\":%lu,\"first_failure\":\"%s\",\"seconds\":%.3f,\"rate\":%.1f,"
           "\"bytes\":%lu",
           sse ? "sse" : "json", n_conns, answered, failed, first_failure, took, (double)answered / took, bytes);
    print_samples("latency_us", &latency);
    if (sse) {
        printf(",\"events\":%lu,\"event_rate\":%.1f,\"events_per_read\":%.2f", events, (double)events / took,
               reads ? (double)events / (double)reads : 0.0);
        print_samples("first_event_us", &first_event);
        print_samples("gap_us", &gap);
    }
    printf("}\n");
    return failed ? 1 : 0;
}
