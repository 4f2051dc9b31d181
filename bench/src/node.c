/* A node that signs, and is not the bottleneck: one thread, epoll, libsodium.
 *
 *   node --seed FILE [--port 0] [--model mock] [--chunks 50] [--interval-us 5000] [--pad 220]
 *
 * Speaks the node profile (docs/node-profile.md) as far as a benchmark needs it: the attestation with a nonce, chat
 * completions as JSON with the receipt in a header, or as an event stream with the receipt as its last event and, when
 * asked, a signature after every event ("chained"). FILE holds 32 bytes; the
 * keyset is good for 30 days, and the ready line says its pin. The evidence is a software statement: it proves possession
 * of a key, and nothing about hardware.
 *
 * Of a request it reads the Content-Length, the x-aci-* headers, "model" and "stream". No chunked requests.
 * GET /__set?chunks=&interval_us=&pad= changes the answers while it runs. Loopback only, on purpose.
 */
#include "http.h"
#include "sha256.h"

#include <errno.h>
#include <signal.h>
#include <sodium.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>

#define MAX_FD 20000
#define MAX_REQUEST (64u << 20)
#define KEPT 1024 /* receipts that GET /v1/aci/receipts/{id} still knows */

typedef struct {
    int fd, open;
    buffer in, out;
    size_t sent;
    /* the stream being answered, if any */
    int streaming, inline_receipt, chained;
    long next_event, k;
    uint64_t due;
    char nonce[65], request_hash[65], id[24], model[128];
    sha256 covered;
} connection;

static connection connections[MAX_FD];
static int streams[MAX_FD], stream_count;
static int poll_fd;

static long chunks = 50, interval_us = 5000, pad = 220;
static const char *default_model = "mock";
static unsigned char public_key[crypto_sign_PUBLICKEYBYTES], secret_key[crypto_sign_SECRETKEYBYTES];
static char keyset[512], keyset_digest[65];
static uint64_t counter;
static char epoch[9]; /* makes ids unique across runs with one seed */
static struct {
    char id[24], text[2048];
} kept[KEPT];

/* ---- signing ---------------------------------------------------------------------------------------------------- */

static void hex(char *to, const unsigned char *from, size_t n) { sodium_bin2hex(to, 2 * n + 1, from, n); }

static void sha256_hex(char to[65], const void *data, size_t len) {
    unsigned char digest[32];
    sha256 s;
    sha256_begin(&s);
    sha256_add(&s, data, len);
    sha256_end(&s, digest);
    hex(to, digest, 32);
}

static void sign_hex(char to[129], const void *message, size_t len) {
    unsigned char signature[64];
    crypto_sign_detached(signature, NULL, message, len, secret_key);
    hex(to, signature, 64);
}

static void make_identity(const char *path) {
    unsigned char seed[32];
    FILE *f = fopen(path, "rb");
    if (!f || fread(seed, 1, sizeof seed, f) != sizeof seed) {
        fprintf(stderr, "node: %s must hold 32 bytes, the seed of the signing key\n", path);
        exit(2);
    }
    fclose(f);
    crypto_sign_seed_keypair(public_key, secret_key, seed);
    char key[65];
    hex(key, public_key, 32);
    snprintf(keyset, sizeof keyset, /* RFC 8785: members in order, no spaces */
             "{\"e2ee_public_keys\":[],\"not_after\":%ld,\"receipt_signing_keys\":[{\"algo\":\"ed25519\","
             "\"key_id\":\"bench-1\",\"public_key\":\"%s\"}],\"subject\":\"veriroute-bench-node\","
             "\"tls_public_keys\":[]}",
             (long)time(NULL) + 30 * 86400, key);
    sha256_hex(keyset_digest, keyset, strlen(keyset));
    unsigned char random[4];
    randombytes_buf(random, sizeof random);
    hex(epoch, random, sizeof random);
}

/* Writes the signed receipt in JCS form; returns its length. `nonce` may be "". */
static int make_receipt(char *to, size_t size, const char *id, const char *model, const char *nonce,
                        const char *request_hash, const char *response_hash) {
    char tail[128], nonce_member[96] = "", signature[129];
    if (nonce[0]) snprintf(nonce_member, sizeof nonce_member, "\"request_nonce\":\"%s\",", nonce);
    snprintf(tail, sizeof tail, "\"workload_keyset_digest\":\"sha256:%s\"}", keyset_digest);
    int n = snprintf(to, size,
                     "{\"api_version\":\"aci/1\",\"chat_id\":\"chatcmpl-%s\",\"endpoint\":\"/v1/chat/completions\","
                     "\"event_log\":[{\"body_hash\":\"sha256:%s\",\"type\":\"request.received\"},"
                     "{\"body_hash\":\"sha256:%s\",\"type\":\"response.returned\"}],\"key_id\":\"bench-1\","
                     "\"method\":\"POST\",\"model\":\"%s\",\"receipt_id\":\"rcpt-%s\",%s\"served_at\":%ld,",
                     id, request_hash, response_hash, model, id, nonce_member, (long)time(NULL));
    int head = n;
    n += snprintf(to + n, size - (size_t)n, "%s", tail);
    sign_hex(signature, to, (size_t)n);
    n = head + snprintf(to + head, size - (size_t)head, "\"signature\":\"%s\",%s", signature, tail);
    size_t slot = counter % KEPT;
    memcpy(kept[slot].id, id, sizeof kept[slot].id);
    snprintf(kept[slot].text, sizeof kept[slot].text, "%s", to);
    return n;
}

/* ---- connections ------------------------------------------------------------------------------------------------ */

static void watch(connection *c, int writing) {
    struct epoll_event e = {.events = EPOLLIN | (writing ? EPOLLOUT : 0), .data.fd = c->fd};
    epoll_ctl(poll_fd, EPOLL_CTL_MOD, c->fd, &e);
}

static void end_stream(connection *c) {
    for (int i = 0; i < stream_count; i++)
        if (streams[i] == c->fd) {
            streams[i] = streams[--stream_count];
            break;
        }
    c->streaming = 0;
}

static void hang_up(connection *c) {
    if (c->streaming) end_stream(c);
    close(c->fd);
    c->open = 0;
    c->in.len = c->out.len = c->sent = 0;
}

/* Sends what is waiting. -1: the peer is gone. */
static int flush(connection *c) {
    while (c->sent < c->out.len) {
        ssize_t n = send(c->fd, c->out.data + c->sent, c->out.len - c->sent, MSG_NOSIGNAL);
        if (n < 0) {
            if (errno != EAGAIN) return -1;
            watch(c, 1);
            return 0;
        }
        c->sent += (size_t)n;
    }
    c->out.len = c->sent = 0;
    return 0;
}

static void answer(connection *c, const char *status, const char *headers, const char *body, size_t len) {
    char head[4096];
    int n = snprintf(head, sizeof head, "HTTP/1.1 %s\r\nContent-Type: application/json\r\n%sContent-Length: %zu\r\n\r\n",
                     status, headers, len);
    buffer_add(&c->out, head, (size_t)n);
    buffer_add(&c->out, body, len);
}

/* ---- chat completions ------------------------------------------------------------------------------------------- */

static int json_answer(connection *c) {
    static buffer body;
    static char filler[65536];
    body.len = 0;
    char text[1024];
    int n = snprintf(text, sizeof text,
                     "{\"id\":\"chatcmpl-%s\",\"object\":\"chat.completion\",\"created\":%ld,\"model\":\"%s\","
                     "\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"Hello! This is the "
                     "fixed answer of the benchmark's node; every byte of it is covered by the receipt's signature.",
                     c->id, (long)time(NULL), c->model);
    buffer_add(&body, text, (size_t)n);
    size_t extra = (size_t)(pad < (long)sizeof filler ? pad : (long)sizeof filler);
    memset(filler, 'x', extra);
    buffer_add(&body, filler, extra);
    buffer_text(&body, "\",\"refusal\":null},\"logprobs\":null,\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":19,"
                       "\"completion_tokens\":24,\"total_tokens\":43},\"system_fingerprint\":\"fp_bench\"}");
    char response_hash[65], receipt[2048], headers[3600], encoded[2800] = "";
    sha256_hex(response_hash, body.data, body.len);
    int len = make_receipt(receipt, sizeof receipt, c->id, c->model, c->nonce, c->request_hash, response_hash);
    if (c->inline_receipt)
        sodium_bin2base64(encoded, sizeof encoded, (unsigned char *)receipt, (size_t)len, sodium_base64_VARIANT_ORIGINAL);
    snprintf(headers, sizeof headers, "x-receipt-id: rcpt-%s\r\nx-aci-version: aci/1\r\nx-aci-keyset-digest: sha256:%s\r\n%s%s%s",
             c->id, keyset_digest, encoded[0] ? "x-aci-receipt: " : "", encoded, encoded[0] ? "\r\n" : "");
    answer(c, "200 OK", headers, body.data, body.len);
    return flush(c);
}

static void add_chunk(connection *c, const char *data, size_t len) {
    char size[24];
    buffer_add(&c->out, size, (size_t)snprintf(size, sizeof size, "%zx\r\n", len));
    buffer_add(&c->out, data, len);
    buffer_add(&c->out, "\r\n", 2);
}

/* Appends the k-th chain comment over what has been covered so far. */
static size_t add_chain(connection *c, char *to, size_t size) {
    unsigned char digest[32];
    char digest_hex[65], message[512], signature[129];
    sha256_end(&c->covered, digest);
    hex(digest_hex, digest, 32);
    int n = snprintf(message, sizeof message, "aci.chain.v1\nrcpt-%s\n%s\n%s\n%s\n%ld\n%s\n", c->id, c->nonce,
                     c->request_hash, c->model, ++c->k, digest_hex);
    sign_hex(signature, message, (size_t)n);
    return (size_t)snprintf(to, size, ": aci.chain %ld %s\n\n", c->k, signature);
}

/* Sends the next event, each in a chunk and a segment of its own. 1: the stream is over. */
static int stream_on(connection *c) {
    char text[8192];
    size_t n;
    if (c->next_event < chunks) {
        n = (size_t)snprintf(text, sizeof text,
                             "data: {\"id\":\"chatcmpl-%s\",\"object\":\"chat.completion.chunk\",\"created\":1741569952,"
                             "\"model\":\"%s\",\"system_fingerprint\":\"fp_bench\",\"choices\":[{\"index\":0,\"delta\":{%s"
                             "\"content\":\"token%ld \"},\"logprobs\":null,\"finish_reason\":null}]}\n\n",
                             c->id, c->model, c->next_event ? "" : "\"role\":\"assistant\",", c->next_event);
        c->next_event++;
        sha256_add(&c->covered, text, n);
        if (c->chained) n += add_chain(c, text + n, sizeof text - n);
        add_chunk(c, text, n);
        return flush(c);
    }
    n = (size_t)snprintf(text, sizeof text,
                         "data: {\"id\":\"chatcmpl-%s\",\"object\":\"chat.completion.chunk\",\"created\":1741569952,"
                         "\"model\":\"%s\",\"system_fingerprint\":\"fp_bench\",\"choices\":[{\"index\":0,\"delta\":{},"
                         "\"logprobs\":null,\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n",
                         c->id, c->model);
    sha256_add(&c->covered, text, n);
    if (c->chained) n += add_chain(c, text + n, sizeof text - n);
    unsigned char digest[32];
    char response_hash[65], receipt[2048];
    sha256_end(&c->covered, digest);
    hex(response_hash, digest, 32);
    int len = make_receipt(receipt, sizeof receipt, c->id, c->model, c->nonce, c->request_hash, response_hash);
    if (c->inline_receipt) {
        n += (size_t)snprintf(text + n, sizeof text - n, "event: aci.receipt\ndata: ");
        sodium_bin2base64(text + n, sizeof text - n, (unsigned char *)receipt, (size_t)len, sodium_base64_VARIANT_ORIGINAL);
        n += strlen(text + n);
        n += (size_t)snprintf(text + n, sizeof text - n, "\n\n");
    }
    add_chunk(c, text, n);
    buffer_text(&c->out, "0\r\n\r\n");
    end_stream(c);
    return flush(c) < 0 ? -1 : 1;
}

static int start_stream(connection *c) {
    char head[512];
    snprintf(head, sizeof head,
             "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nCache-Control: no-cache\r\n"
             "x-receipt-id: rcpt-%s\r\nx-aci-version: aci/1\r\nx-aci-keyset-digest: sha256:%s\r\n"
             "Transfer-Encoding: chunked\r\n\r\n",
             c->id, keyset_digest);
    buffer_text(&c->out, head);
    sha256_begin(&c->covered);
    c->next_event = c->k = 0;
    c->streaming = 1;
    streams[stream_count++] = c->fd;
    c->due = now_ns() + (uint64_t)interval_us * 1000;
    return stream_on(c) < 0 ? -1 : 0;
}

static int chat(connection *c, const char *head, const char *end, const char *body, size_t len) {
    size_t n;
    const char *value = header_value(head, end, "x-aci-nonce:", &n);
    c->nonce[0] = 0;
    if (value && n == 64) {
        memcpy(c->nonce, value, 64);
        c->nonce[64] = 0;
    }
    c->inline_receipt = header_value(head, end, "x-aci-inline:", &n) != NULL;
    c->chained = c->nonce[0] && header_value(head, end, "x-aci-chained:", &n) != NULL;
    snprintf(c->id, sizeof c->id, "%s%010llx", epoch, (unsigned long long)++counter);
    sha256_hex(c->request_hash, body, len);
    snprintf(c->model, sizeof c->model, "%s", default_model);
    const char *model = memmem(body, len, "\"model\"", 7);
    if (model) {
        const char *stop = body + len;
        for (model += 7; model < stop && (*model == ' ' || *model == ':'); model++);
        const char *quote = model < stop && *model == '"' ? memchr(model + 1, '"', (size_t)(stop - model - 1)) : NULL;
        size_t size = quote ? (size_t)(quote - model - 1) : 0;
        if (size && size < sizeof c->model && !memchr(model + 1, '\\', size)) {
            memcpy(c->model, model + 1, size);
            c->model[size] = 0;
        }
    }
    const char *stream = memmem(body, len, "\"stream\"", 8);
    if (stream) {
        for (stream += 8; stream < body + len && (*stream == ' ' || *stream == ':'); stream++);
        if (body + len - stream >= 4 && !memcmp(stream, "true", 4)) return start_stream(c);
    }
    return json_answer(c);
}

/* ---- everything else -------------------------------------------------------------------------------------------- */

static int attestation(connection *c, const char *target) {
    const char *nonce = strstr(target, "nonce=");
    char quoted[72] = "null", statement[256], statement_hash[65], signature[129], escaped[512];
    if (nonce && strspn(nonce + 6, "0123456789abcdef") == 64) snprintf(quoted, sizeof quoted, "\"%.64s\"", nonce + 6);
    snprintf(statement, sizeof statement, "{\"keyset_digest\":\"sha256:%s\",\"nonce\":%s,\"purpose\":\"aci.report_data.v1\"}",
             keyset_digest, quoted);
    sha256_hex(statement_hash, statement, strlen(statement));
    sign_hex(signature, statement, strlen(statement));
    char *to = escaped;
    for (const char *from = statement; *from; from++) {
        if (*from == '"') *to++ = '\\';
        *to++ = *from;
    }
    *to = 0;
    char body[4096];
    int n = snprintf(body, sizeof body,
                     "{\"api_version\":\"aci/1\",\"workload_keyset_digest\":\"sha256:%s\",\"attestation\":{\"tee_type\":"
                     "\"none\",\"workload_keyset\":%s,\"report_data\":\"%s%064d\",\"source_provenance\":{},\"evidence\":{"
                     "\"platform\":\"software\",\"statement\":\"%s\",\"signature\":\"%s\"}},\"service_capabilities\":{"
                     "\"supported_e2ee_versions\":[],\"serving\":\"direct\",\"extensions\":[\"inline-receipt\","
                     "\"request-nonce\",\"chained\"],\"endpoints\":[\"/v1/chat/completions\"],\"models\":[\"%s\"]}}",
                     keyset_digest, keyset, statement_hash, 0, escaped, signature, default_model);
    answer(c, "200 OK", "", body, (size_t)n);
    return flush(c);
}

static int receipt_by_id(connection *c, const char *target) {
    const char *id = target + strlen("/v1/aci/receipts/rcpt-");
    for (size_t i = 0; i < KEPT; i++)
        if (kept[i].id[0] && !strncmp(id, kept[i].id, strlen(kept[i].id))) {
            answer(c, "200 OK", "", kept[i].text, strlen(kept[i].text));
            return flush(c);
        }
    static const char gone[] = "{\"error\":{\"code\":\"not_found\",\"message\":\"no such receipt\"}}";
    answer(c, "404 Not Found", "", gone, sizeof gone - 1);
    return flush(c);
}

static void set_number(const char *target, const char *name, long *value) {
    const char *found = strstr(target, name);
    if (found && found[strlen(name)] == '=') *value = atol(found + strlen(name) + 1);
}

static int get(connection *c, const char *target) {
    if (!strncmp(target, "/v1/aci/attestation", 19)) return attestation(c, target);
    if (!strncmp(target, "/v1/aci/receipts/rcpt-", 22)) return receipt_by_id(c, target);
    if (!strncmp(target, "/__set?", 7)) {
        set_number(target, "chunks", &chunks);
        set_number(target, "interval_us", &interval_us);
        set_number(target, "pad", &pad);
    }
    char body[512];
    int n = snprintf(body, sizeof body,
                     "{\"object\":\"list\",\"data\":[{\"id\":\"%s\",\"object\":\"model\",\"created\":1,\"owned_by\":\"bench\"}],"
                     "\"served\":%llu,\"chunks\":%ld,\"interval_us\":%ld,\"pad\":%ld}",
                     default_model, (unsigned long long)counter, chunks, interval_us, pad);
    answer(c, "200 OK", "", body, (size_t)n);
    return flush(c);
}

/* Answers every whole request that has arrived. -1: hang up. */
static int serve(connection *c) {
    while (!c->streaming && c->in.len) {
        char *head = c->in.data, *end = memmem(head, c->in.len, "\r\n\r\n", 4);
        if (!end) return c->in.len > 65536 ? -1 : 0;
        size_t head_len = (size_t)(end + 4 - head), body_len = 0, n;
        const char *length = header_value(head, end, "content-length:", &n);
        if (length) body_len = strtoul(length, NULL, 10);
        if (body_len > MAX_REQUEST || header_value(head, end, "transfer-encoding:", &n)) return -1;
        if (c->in.len < head_len + body_len) {
            buffer_reserve(&c->in, head_len + body_len - c->in.len);
            return 0;
        }
        int ok;
        if (!strncmp(head, "POST ", 5)) {
            ok = chat(c, head, end, end + 4, body_len);
        } else if (!strncmp(head, "GET ", 4)) {
            char target[512];
            snprintf(target, sizeof target, "%.*s", (int)strcspn(head + 4, " \r"), head + 4);
            ok = get(c, target);
        } else {
            return -1;
        }
        if (ok < 0) return -1;
        buffer_drop(&c->in, head_len + body_len);
    }
    return 0;
}

static void read_more(connection *c) {
    for (;;) {
        buffer_reserve(&c->in, 16384);
        size_t room = c->in.cap - c->in.len;
        ssize_t n = recv(c->fd, c->in.data + c->in.len, room, 0);
        if (n > 0) {
            c->in.len += (size_t)n;
            if ((size_t)n == room) continue;
            break;
        }
        if (n < 0 && errno == EAGAIN) break;
        hang_up(c);
        return;
    }
    if (serve(c) < 0) hang_up(c);
}

static void accept_all(int listener) {
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0) return;
        if (fd >= MAX_FD) {
            close(fd);
            continue;
        }
        no_delay(fd);
        connection *c = &connections[fd];
        c->fd = fd;
        c->open = 1;
        c->streaming = 0;
        struct epoll_event e = {.events = EPOLLIN, .data.fd = fd};
        epoll_ctl(poll_fd, EPOLL_CTL_ADD, fd, &e);
    }
}

/* Sends every event that is due; a late stream is never made to catch up in a burst. Arms the timer for the next. */
static void run_streams(int timer) {
    uint64_t now = now_ns(), next = UINT64_MAX;
    for (int i = 0; i < stream_count; i++) {
        connection *c = &connections[streams[i]];
        if (c->due <= now) {
            int over = stream_on(c);
            if (over) {
                if (over < 0 || serve(c) < 0) hang_up(c);
                i--; /* another stream took this place */
                continue;
            }
            c->due += (uint64_t)(interval_us > 0 ? interval_us : 50) * 1000;
            if (c->due < now) c->due = now;
        }
        if (c->due < next) next = c->due;
    }
    struct itimerspec when = {0};
    if (next != UINT64_MAX) {
        uint64_t wait = next > now ? next - now : 1;
        when.it_value.tv_sec = (time_t)(wait / 1000000000u);
        when.it_value.tv_nsec = (long)(wait % 1000000000u);
    }
    timerfd_settime(timer, 0, &when, NULL);
}

int main(int argc, char **argv) {
    int port = 0;
    const char *seed = NULL;
    for (int i = 1; i + 1 < argc; i += 2) {
        if (!strcmp(argv[i], "--port")) port = atoi(argv[i + 1]);
        else if (!strcmp(argv[i], "--seed")) seed = argv[i + 1];
        else if (!strcmp(argv[i], "--model")) default_model = argv[i + 1];
        else if (!strcmp(argv[i], "--chunks")) chunks = atol(argv[i + 1]);
        else if (!strcmp(argv[i], "--interval-us")) interval_us = atol(argv[i + 1]);
        else if (!strcmp(argv[i], "--pad")) pad = atol(argv[i + 1]);
        else seed = NULL, i = argc;
    }
    if (!seed) {
        fprintf(stderr, "usage: node --seed FILE [--port N] [--model NAME] [--chunks N] [--interval-us N] [--pad N]\n");
        return 2;
    }
    if (sodium_init() < 0) die("libsodium");
    sha256_choose();
    signal(SIGPIPE, SIG_IGN);
    make_identity(seed);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), one = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    struct sockaddr_in address = loopback(port);
    socklen_t size = sizeof address;
    if (bind(listener, (void *)&address, size) || listen(listener, 4096)) die("node: listen");
    getsockname(listener, (void *)&address, &size);
    poll_fd = epoll_create1(EPOLL_CLOEXEC);
    int timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    struct epoll_event e = {.events = EPOLLIN, .data.fd = listener};
    epoll_ctl(poll_fd, EPOLL_CTL_ADD, listener, &e);
    e.data.fd = timer;
    epoll_ctl(poll_fd, EPOLL_CTL_ADD, timer, &e);
    printf("{\"event\":\"ready\",\"url\":\"http://127.0.0.1:%d\",\"pin\":\"sha256:%s\",\"model\":\"%s\"}\n",
           ntohs(address.sin_port), keyset_digest, default_model);
    fflush(stdout);
    struct epoll_event events[256];
    for (;;) {
        int n = epoll_wait(poll_fd, events, 256, -1);
        for (int i = 0; i < n; i++) {
            int fd = events[i].data.fd;
            if (fd == listener) {
                accept_all(listener);
            } else if (fd == timer) {
                uint64_t ticks;
                if (read(timer, &ticks, sizeof ticks) < 0 && errno != EAGAIN) die("timer");
            } else if (connections[fd].open) {
                connection *c = &connections[fd];
                if (events[i].events & EPOLLOUT) {
                    if (flush(c) < 0) {
                        hang_up(c);
                        continue;
                    }
                    if (!c->out.len) watch(c, 0);
                }
                if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) read_more(c);
            }
        }
        run_streams(timer);
    }
}
