/* Gradient Centralization in C, as a program that the suite can ask: cc -O2 -o port port.c, then
 * gc-conformance run --command ./port
 *
 * One line of JSON is a question, one line is its answer; protocol.schema.json of gc_conformance says what they hold.
 * float32 is computed in double and rounded once. The port offers the operator, in float32 and float64. */

#define _POSIX_C_SOURCE 200809L
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_AXES = 32 };

/* ---- As much of JSON as the questions need: the value of a key of an object, where it stands. */

static const char *blank(const char *s) { return s + strspn(s, " \t\r\n,:"); }

static const char *past(const char *s) { /* behind the value that starts at s */
    if (*s == '"') {
        for (s++; *s && *s != '"'; s++) if (*s == '\\') s++;
        return s + 1;
    }
    if (*s != '{' && *s != '[') return s + strcspn(s, ",]} \t\r\n");
    for (s = blank(s + 1); *s && *s != '}' && *s != ']';) s = blank(past(s));
    return s + 1;
}

static const char *get(const char *object, const char *key) {
    size_t length = strlen(key);
    for (const char *s = blank(object + 1); *s && *s != '}';) {
        const char *value = blank(past(s));
        if (s[length + 1] == '"' && !strncmp(s + 1, key, length)) return value;
        s = blank(past(value));
    }
    return NULL;
}

static int integers(const char *s, long *into) { /* a list, or one integer */
    int n = 0;
    if (*s != '[') { into[0] = atol(s); return 1; }
    for (s = blank(s + 1); *s && *s != ']' && n < MOST_AXES; s = blank(past(s))) into[n++] = atol(s);
    return n;
}

/* ---- The operator: g - mean(g), the mean over the fan-in axes */

static void centralize(double *g, const long *shape, int ndim, const int *over) {
    long size = 1, vectors = 1, count = 1;
    for (int a = 0; a < ndim; a++) { size *= shape[a]; *(over[a] ? &count : &vectors) *= shape[a]; }
    if (!size) return;
    double *sum = calloc(vectors, sizeof *sum);
    long *of = malloc(size * sizeof *of); /* the weight vector of each element: its position without those axes */
    for (long i = 0; i < size; i++) {
        long rest = i, number = 0, stride = 1;
        for (int a = ndim - 1; a >= 0; rest /= shape[a--])
            if (!over[a]) { number += rest % shape[a] * stride; stride *= shape[a]; }
        sum[of[i] = number] += g[i];
    }
    for (long i = 0; i < size; i++) g[i] -= sum[of[i]] / count;
    free(sum); free(of);
}

/* ---- Bits in hexadecimal, little-endian, to numbers and back; this machine is little-endian, too. */

static int digit(char c) { return c <= '9' ? c - '0' : c - 'a' + 10; }

static void unhex(const char *s, unsigned char *bytes, long n) {
    for (long i = 0; i < n; i++) bytes[i] = (unsigned char)(16 * digit(s[2 * i]) + digit(s[2 * i + 1]));
}

static void answer_centralize(const char *question, long seq) {
    const char *grad = get(question, "grad"), *axis = get(question, "axis"), *dtype = get(grad, "dtype");
    const char *at = get(grad, "shape"), *bits = get(grad, "bits") + 1;
    long shape[MOST_AXES], axes[MOST_AXES], size = 1;
    int single = !strncmp(dtype, "\"float32\"", 9), ndim = integers(at, shape), over[MOST_AXES] = {0};
    if (!single && strncmp(dtype, "\"float64\"", 9)) {
        printf("{\"seq\": %ld, \"not_provided\": \"this dtype\"}\n", seq);
        return;
    }
    for (int a = 0; a < ndim; a++) size *= shape[a];
    long width = single ? 4 : 8;
    unsigned char *bytes = malloc(size * width + 1);
    double *g = malloc(size * sizeof *g + 1);
    unhex(bits, bytes, size * width);
    if (strncmp(axis, "null", 4)) { /* without axes it is no weight: the bits go back as they came */
        for (int n = integers(axis, axes); n--;) over[axes[n] < 0 ? axes[n] + ndim : axes[n]] = 1;
        for (long i = 0; i < size; i++) {
            float f;
            if (single) { memcpy(&f, bytes + 4 * i, 4); g[i] = f; } else memcpy(g + i, bytes + 8 * i, 8);
        }
        centralize(g, shape, ndim, over);
        for (long i = 0; i < size; i++) {
            float f = (float)g[i];
            if (single) memcpy(bytes + 4 * i, &f, 4); else memcpy(bytes + 8 * i, g + i, 8);
        }
    }
    printf("{\"seq\": %ld, \"result\": {\"dtype\": %.9s, \"shape\": %.*s, \"bits\": \"", seq, dtype, (int)(past(at) - at), at);
    for (long i = 0; i < size * width; i++) printf("%02x", bytes[i]);
    printf("\"}}\n");
    free(bytes); free(g);
}

int main(void) {
    char *line = NULL;
    size_t room = 0;
    while (getline(&line, &room, stdin) > 0) {
        long seq = atol(get(line, "seq"));
        const char *what = get(line, "do");
        if (!strncmp(what, "\"start\"", 7))
            printf("{\"seq\": %ld, \"result\": {\"version\": 1, \"name\": \"Gradient Centralization in C\", "
                   "\"language\": \"C\", \"provides\": [\"centralize\"]}}\n", seq);
        else if (!strncmp(what, "\"centralize\"", 12))
            answer_centralize(line, seq);
        else
            printf("{\"seq\": %ld, \"not_provided\": \"only centralize\"}\n", seq);
        fflush(stdout);
    }
    free(line);
}
