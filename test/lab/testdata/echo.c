/* Answers every line on TCP port 7 with the value of $GREETING and the line: a container that needs nothing. */
#include <arpa/inet.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

int main(int argc, char **argv) {
    const char *greeting = getenv("GREETING") ? getenv("GREETING") : "";
    struct sockaddr_in any = {.sin_family = AF_INET, .sin_port = htons(argc > 1 ? atoi(argv[1]) : 7)};
    int one = 1, s = socket(AF_INET, SOCK_STREAM, 0);
    signal(SIGCHLD, SIG_IGN);
    setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(s, (struct sockaddr *)&any, sizeof any) || listen(s, 64)) {
        perror("echo");
        return 1;
    }
    printf("listening\n");
    fflush(stdout);
    for (;;) {
        int c = accept(s, NULL, NULL);
        if (c < 0)
            continue;
        if (fork() == 0) {
            char line[4096];
            FILE *f = fdopen(c, "r");
            while (fgets(line, sizeof line, f))
                dprintf(c, "%s%s", greeting, line);
            _exit(0);
        }
        close(c);
    }
}
