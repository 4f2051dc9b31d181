/* What node.c and load.c share: growing buffers, the clock, and a loopback address. */
#ifndef BENCH_HTTP_H
#define BENCH_HTTP_H

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

typedef struct {
    char *data;
    size_t len, cap;
} buffer;

static void die(const char *what) {
    perror(what);
    exit(2);
}

static inline void buffer_reserve(buffer *b, size_t more) {
    if (b->len + more <= b->cap) return;
    b->cap = (b->len + more) * 2;
    b->data = realloc(b->data, b->cap);
    if (!b->data) die("out of memory");
}

static inline void buffer_add(buffer *b, const void *data, size_t len) {
    buffer_reserve(b, len);
    memcpy(b->data + b->len, data, len);
    b->len += len;
}

static inline void buffer_text(buffer *b, const char *text) { buffer_add(b, text, strlen(text)); }

static inline void buffer_drop(buffer *b, size_t front) {
    memmove(b->data, b->data + front, b->len - front);
    b->len -= front;
}

static inline uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static inline struct sockaddr_in loopback(int port) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return a;
}

static inline void no_delay(int fd) {
    int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

/* The value of header `name` in the head [head, end), or NULL; *len is its length. `name` ends with a colon. */
static inline const char *header_value(const char *head, const char *end, const char *name, size_t *len) {
    size_t n = strlen(name);
    for (const char *line = memchr(head, '\n', (size_t)(end - head)); line && line + 1 + n < end;
         line = memchr(line + 1, '\n', (size_t)(end - line - 1))) {
        if (strncasecmp(line + 1, name, n)) continue;
        const char *value = line + 1 + n;
        while (value < end && *value == ' ') value++;
        const char *stop = memchr(value, '\r', (size_t)(end - value));
        *len = (size_t)((stop ? stop : end) - value);
        return value;
    }
    return NULL;
}

#endif
