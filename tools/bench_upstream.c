/* GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What the benchmark of the services measures against: an HTTP server that costs next to nothing. A thread for each
 * connection; a model server (/health, /v1/models, /v1/chat/completions, whole or as 64 chunks, each written by itself)
 * and an MCP server of 2026-07-28 with TOOLS tools (/mcp), on one port of loopback.
 *
 * usage: upstream PORT TOOLS
 */
#define _GNU_SOURCE
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#define CHUNKS 64
#define LONGEST (1 << 20)

static char *tool_list;

static const char *answer =
    "{\"id\":\"c1\",\"object\":\"chat.completion\",\"created\":1,\"model\":\"bench\",\"choices\":[{\"index\":0,"
    "\"finish_reason\":\"stop\",\"message\":{\"role\":\"assistant\",\"content\":\"The quick brown fox jumps over the lazy dog.\"}}],"
    "\"usage\":{\"prompt_tokens\":12,\"completion_tokens\":10,\"total_tokens\":22}}";
static const char *models = "{\"object\":\"list\",\"data\":[{\"id\":\"bench\",\"object\":\"model\",\"created\":1,\"owned_by\":\"bench\"}]}";

static const char *adjectives[] = {"daily", "shared", "archived", "private", "remote", "nested", "recent", "public", "signed", "broken"};
static const char *verbs[] = {"list", "read", "create", "delete", "update", "search", "export", "import", "compare", "merge"};
static const char *nouns[] = {"file", "issue", "calendar", "invoice", "message", "table", "branch", "picture", "contact", "report"};

static int out(int fd, const char *data, size_t size) {
    while (size) {
        ssize_t sent = send(fd, data, size, MSG_NOSIGNAL);
        if (sent <= 0) return -1;
        data += sent;
        size -= (size_t)sent;
    }
    return 0;
}

static int whole(int fd, int status, const char *body) {
    size_t size = strlen(body);
    char *text = malloc(size + 200);
    int head = sprintf(text, "HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n", status,
                       status == 200 ? "OK" : "Not Found", size);
    memcpy(text + head, body, size);
    int failed = out(fd, text, (size_t)head + size);
    free(text);
    return failed;
}

static int chunk(int fd, const char *event) {
    char text[1024];
    int size = snprintf(text, sizeof text, "%zx\r\n%s\r\n", strlen(event), event);
    return out(fd, text, (size_t)size);
}

static int streamed(int fd) {
    const char *head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
    char event[512];
    if (out(fd, head, strlen(head))) return -1;
    for (int number = 0; number < CHUNKS; number++) {
        snprintf(event, sizeof event,
                 "data: {\"id\":\"c1\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"bench\",\"choices\":[{\"index\":0,"
                 "\"delta\":{\"content\":\"word%d \"},\"finish_reason\":null}]}\n\n", number);
        if (chunk(fd, event)) return -1;
    }
    if (chunk(fd, "data: {\"id\":\"c1\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"bench\",\"choices\":[],"
                  "\"usage\":{\"prompt_tokens\":12,\"completion_tokens\":64,\"total_tokens\":76}}\n\ndata: [DONE]\n\n")) return -1;
    return out(fd, "0\r\n\r\n", 5);
}

static int mcp(int fd, const char *body) {
    const char *at = strstr(body, "\"id\":");
    long id = at ? strtol(at + 5, NULL, 10) : 0;
    char head[512];
    if (strstr(body, "\"tools/call\"")) {
        snprintf(head, sizeof head,
                 "{\"jsonrpc\":\"2.0\",\"id\":%ld,\"result\":{\"resultType\":\"complete\",\"content\":[{\"type\":\"text\",\"text\":\"done\"}]}}", id);
        return whole(fd, 200, head);
    }
    if (strstr(body, "\"tools/list\"")) {
        snprintf(head, sizeof head, "{\"jsonrpc\":\"2.0\",\"id\":%ld,\"result\":{\"resultType\":\"complete\",\"ttlMs\":60000,"
                 "\"cacheScope\":\"public\",\"tools\":[", id);
        char *text = malloc(strlen(head) + strlen(tool_list) + 8);
        sprintf(text, "%s%s]}}", head, tool_list);
        int failed = whole(fd, 200, text);
        free(text);
        return failed;
    }
    snprintf(head, sizeof head,
             "{\"jsonrpc\":\"2.0\",\"id\":%ld,\"result\":{\"resultType\":\"complete\",\"supportedVersions\":[\"2026-07-28\"],"
             "\"capabilities\":{\"tools\":{}},\"ttlMs\":60000,\"cacheScope\":\"public\",\"_meta\":{\"io.modelcontextprotocol/serverInfo\":"
             "{\"name\":\"bench\",\"version\":\"1\"}}}}", id);
    return whole(fd, 200, head);
}

static int serve(int fd, const char *head, const char *body) {
    if (!strncmp(head, "GET /health ", 12)) return whole(fd, 200, "{\"status\":\"ok\"}");
    if (!strncmp(head, "GET /v1/models ", 15)) return whole(fd, 200, models);
    if (!strncmp(head, "POST /mcp ", 10)) return mcp(fd, body);
    if (strncmp(head, "POST /v1/chat/completions ", 26)) return whole(fd, 404, "{}");
    return strstr(body, "\"stream\":true") || strstr(body, "\"stream\": true") ? streamed(fd) : whole(fd, 200, answer);
}

static void *work(void *given) {
    int fd = (int)(long)given, yes = 1;
    char *text = malloc(LONGEST + 1);
    size_t have = 0;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    for (;;) {
        text[have] = 0;
        char *end = strstr(text, "\r\n\r\n");
        if (end) {
            size_t head = (size_t)(end - text) + 4, length = 0;
            char *at = strcasestr(text, "\r\ncontent-length:");
            if (at && at < end) length = (size_t)strtoul(at + 17, NULL, 10);
            if (have >= head + length) {
                char kept = text[head + length];
                text[head + length] = 0;
                if (serve(fd, text, text + head)) break;
                text[head + length] = kept;
                have -= head + length;
                memmove(text, text + head + length, have);
                continue;
            }
        }
        ssize_t got = have < LONGEST ? recv(fd, text + have, LONGEST - have, 0) : 0;
        if (got <= 0) break;
        have += (size_t)got;
    }
    free(text);
    close(fd);
    return NULL;
}

int main(int argc, char **argv) {
    if (argc != 3) return 2;
    int tools = atoi(argv[2]), listener = socket(AF_INET, SOCK_STREAM, 0), yes = 1;
    size_t used = 0;
    tool_list = calloc(1, (size_t)tools * 400 + 1);
    for (int number = 0; number < tools; number++)
        used += (size_t)sprintf(tool_list + used,
            "%s{\"name\":\"%s_%s_%d\",\"description\":\"%s a %s %s of the workspace, by its name or its number %d.\",\"inputSchema\":"
            "{\"type\":\"object\",\"properties\":{\"name\":{\"type\":\"string\"},\"limit\":{\"type\":\"integer\"}}}}",
            number ? "," : "", verbs[number % 10], nouns[number / 10 % 10], number, verbs[number % 10],
            adjectives[number / 100 % 10], nouns[number / 10 % 10], number);
    signal(SIGPIPE, SIG_IGN);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((unsigned short)atoi(argv[1])), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 512)) return 1;
    for (;;) {
        int fd = accept(listener, NULL, NULL);
        pthread_t thread;
        if (fd < 0) continue;
        if (pthread_create(&thread, NULL, work, (void *)(long)fd)) close(fd);
        else pthread_detach(thread);
    }
}
