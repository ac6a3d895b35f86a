/* What runs in the lab's guest: it ticks, answers, writes memory, writes disk, so that anything that a migration breaks is seen from outside.
 *
 *   workload ADDRESS TOUCH_MIB SET_MIB RATE [ON_MS OFF_MS FILL]
 *
 * RATE is MiB/s of dirtied memory, 0 for none, or "max"; with ON_MS it is written for so long, then not for OFF_MS, and so on. FILL is
 * "random", or "text" for memory that compresses well. What it says, one line a write, on the serial console (standard output):
 *
 *   S BOOT ready             once
 *   T BOOT SEQ MONO_MS       every 10 ms; a late tick comes late, none is left out
 *   D BOOT SEQ CRC           a disk record is on the disk, synced
 *   M BOOT PASSES ERRORS WRITTEN_KIB RATE     five times a second while a working set is written
 *
 * Where it finds a channel of a guest agent it answers libvirt on it: what the time is, and nothing else.
 *
 * BOOT is 8 hex digits that differ from boot to boot. UDP port 7007 echoes the first 8 bytes, followed by BOOT, the last tick and MONO_MS
 * (big endian). A disk record is 512 bytes, see struct record: each carries the checksum of the one before, so that two copies that went
 * on from the same moment cannot both fit in.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <endian.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum { PORT = 7007, TICK_MS = 10, RECORD_MS = 50, TELL_MS = 200, BATCH_MS = 5, PULSE_MS = 2, PAGE = 4096, SECTOR = 512 };
static const size_t MIB = 1 << 20;

static char boot[9];
static atomic_uint_fast64_t ticks;
static pthread_mutex_t line_lock = PTHREAD_MUTEX_INITIALIZER;

static uint64_t mono_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

__attribute__((format(printf, 1, 2))) static void say(const char *format, ...)
{
    char line[128];
    va_list words;
    va_start(words, format);
    int length = vsnprintf(line, sizeof line, format, words);
    va_end(words);
    pthread_mutex_lock(&line_lock);
    for (int done = 0; done < length;) {
        ssize_t wrote = write(STDOUT_FILENO, line + done, length - done);
        if (wrote <= 0)
            break;
        done += wrote;
    }
    pthread_mutex_unlock(&line_lock);
}

/* Sleep until the next multiple of a period after `next`, never skipping one. */
static void wait_next(struct timespec *next, long period_ms)
{
    next->tv_nsec += period_ms * 1000000;
    while (next->tv_nsec >= 1000000000) {
        next->tv_nsec -= 1000000000;
        next->tv_sec++;
    }
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, next, NULL))
        ;
}

static void *tick(void *unused)
{
    (void)unused;
    struct sched_param urgent = {.sched_priority = 10};
    pthread_setschedparam(pthread_self(), SCHED_FIFO, &urgent);
    struct timespec next;
    clock_gettime(CLOCK_MONOTONIC, &next);
    for (uint64_t seq = 0;; seq++) {
        say("T %s %lu %lu\n", boot, (unsigned long)seq, (unsigned long)mono_ms());
        atomic_store(&ticks, seq);
        wait_next(&next, TICK_MS);
    }
    return NULL;
}

static void *echo(void *address)
{
    struct sched_param urgent = {.sched_priority = 9};
    pthread_setschedparam(pthread_self(), SCHED_FIFO, &urgent);
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_port = htons(PORT)};
    inet_pton(AF_INET, address, &here.sin_addr);
    if (fd < 0 || bind(fd, (struct sockaddr *)&here, sizeof here)) {
        say("E %s cannot answer on %s\n", boot, (char *)address);
        return NULL;
    }
    for (;;) {
        unsigned char packet[512];
        struct sockaddr_in peer;
        socklen_t size = sizeof peer;
        ssize_t got = recvfrom(fd, packet, sizeof packet, 0, (struct sockaddr *)&peer, &size);
        if (got < 8)
            continue;
        uint64_t words[2] = {htobe64(atomic_load(&ticks)), htobe64(mono_ms())};
        memcpy(packet + 8, boot, 8);
        memcpy(packet + 16, words, sizeof words);
        sendto(fd, packet, 16 + sizeof words, 0, (struct sockaddr *)&peer, size);
    }
    return NULL;
}

/* --- memory */

struct memory {
    size_t touch_bytes, set_bytes;
    uint64_t rate_bps; /* UINT64_MAX: flat out */
    uint64_t on_ms, off_ms; /* bursts; on_ms 0: always */
    int text, whole;
};

static uint64_t mix(uint64_t x) /* splitmix64 */
{
    x += 0x9e3779b97f4a7c15;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
    x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
    return x ^ (x >> 31);
}

static uint64_t expected(uint64_t page, uint64_t pass) { return mix(page << 24 ^ pass); }

static uint64_t xorshift(uint64_t x) /* xorshift64: incompressible, and quick */
{
    x ^= x << 13, x ^= x >> 7;
    return x ^ x << 17;
}

/* One word at the page's start and one at a place that moves with the pass: each must still hold what was written last.
   Of a whole page all the others are new, too. */
static unsigned write_page(uint64_t *page, uint64_t number, uint64_t pass, int whole)
{
    unsigned words = PAGE / sizeof *page, place = 1 + pass % (words - 1), last = 1 + (pass - 1) % (words - 1);
    unsigned errors = pass > 1 && (page[0] != expected(number, pass - 1) || page[last] != ~expected(number, pass - 1));
    uint64_t state = expected(number, pass) | 1;
    for (unsigned word = 1; whole && word < words; word++)
        page[word] = state = xorshift(state);
    page[0] = expected(number, pass);
    page[place] = ~expected(number, pass);
    return errors;
}

static void *write_memory(void *given)
{
    const struct memory *memory = given;
    size_t bytes = memory->touch_bytes > memory->set_bytes ? memory->touch_bytes : memory->set_bytes;
    uint64_t *words = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (words == MAP_FAILED) {
        say("E %s no memory\n", boot);
        return NULL;
    }
    uint64_t state = 88172645463325252u;
    for (size_t word = 0; word < bytes / sizeof *words; word++) {
        state = xorshift(state);
        words[word] = memory->text ? 0x2065756765732065 : state;
    }
    say("S %s ready\n", boot);
    uint64_t pages = memory->set_bytes / PAGE, pass = 1, page = 0, errors = 0, written = 0, told_written = 0;
    if (!pages || !memory->rate_bps)
        return NULL;
    uint64_t batch = memory->rate_bps == UINT64_MAX ? 4096 : memory->rate_bps * BATCH_MS / 1000 / PAGE;
    struct timespec next;
    clock_gettime(CLOCK_MONOTONIC, &next);
    for (uint64_t told = mono_ms(), begun = told;;) {
        for (uint64_t done = 0; done < (batch ? batch : 1); done++) {
            errors += write_page(words + page * (PAGE / sizeof *words), page, pass, memory->whole);
            written += PAGE;
            if (++page == pages)
                page = 0, pass++;
        }
        if (memory->rate_bps != UINT64_MAX)
            wait_next(&next, BATCH_MS);
        uint64_t now = mono_ms();
        if (memory->on_ms && now >= begun + memory->on_ms) {
            wait_next(&next, memory->off_ms);
            clock_gettime(CLOCK_MONOTONIC, &next);
            now = begun = mono_ms();
        }
        if (now >= told + TELL_MS) {
            unsigned long rate = (written - told_written) * 1000 / (now - told) / MIB;
            say("M %s %lu %lu %lu %lu\n", boot, (unsigned long)pass, (unsigned long)errors, (unsigned long)(written / 1024), rate);
            told = now, told_written = written;
        }
    }
    return NULL;
}

/* --- disk */

struct record { /* little endian */
    char magic[8], boot[8];
    uint64_t seq, mono_ms;
    uint32_t prev_crc, crc; /* crc: of all bytes before it */
    char rest[SECTOR - 40];
} __attribute__((packed));

static uint32_t crc32(const void *data, size_t size)
{
    const unsigned char *byte = data;
    uint32_t crc = ~0u;
    while (size--) {
        crc ^= *byte++;
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? 0xedb88320 : 0);
    }
    return ~crc;
}

static void *write_disk(void *unused)
{
    (void)unused;
    int fd = open("/dev/vda", O_WRONLY | O_DIRECT | O_DSYNC);
    if (fd < 0)
        return NULL; /* a guest without a disk */
    struct record *record = aligned_alloc(PAGE, PAGE);
    uint32_t previous = 0;
    struct timespec next;
    clock_gettime(CLOCK_MONOTONIC, &next);
    for (uint64_t seq = 0;; seq++) {
        memset(record, 0, sizeof *record);
        memcpy(record->magic, "SEGUEREC", 8);
        memcpy(record->boot, boot, 8);
        record->seq = htole64(seq);
        record->mono_ms = htole64(mono_ms());
        record->prev_crc = htole32(previous);
        previous = crc32(record, offsetof(struct record, crc));
        record->crc = htole32(previous);
        if (pwrite(fd, record, SECTOR, seq * SECTOR) != SECTOR) {
            say("E %s disk record %lu cannot be written\n", boot, (unsigned long)seq);
            return NULL;
        }
        say("D %s %lu %08x\n", boot, (unsigned long)seq, previous);
        wait_next(&next, RECORD_MS);
    }
    return NULL;
}

/* --- a guest agent (qemu-ga's protocol) that can say what the time is: {"execute":"guest-sync…","arguments":{"id":N}}, guest-get-time */

static void *tell_time(void *unused)
{
    (void)unused;
    int fd = open("/dev/vport1p1", O_RDWR); /* libvirt puts its serial controller before the console's */
    if (fd < 0)
        fd = open("/dev/vport0p1", O_RDWR);
    if (fd < 0)
        return NULL; /* a guest without an agent */
    char line[1024], answer[96];
    for (size_t length = 0;;) {
        ssize_t got = read(fd, line + length, 1);
        if (got <= 0) { /* nobody listens on the host's side */
            usleep(20000);
            continue;
        }
        if (line[length] != '\n' && ++length < sizeof line - 1)
            continue;
        line[length] = 0, length = 0;
        struct timespec now;
        clock_gettime(CLOCK_REALTIME, &now);
        char *id = strstr(line, "\"id\":");
        if (strstr(line, "guest-sync") && id)
            snprintf(answer, sizeof answer, "%s{\"return\": %llu}\n", strstr(line, "-delimited") ? "\xff" : "", strtoull(id + 5, NULL, 10));
        else if (strstr(line, "guest-get-time"))
            snprintf(answer, sizeof answer, "{\"return\": %lld%09ld}\n", (long long)now.tv_sec, now.tv_nsec);
        else
            snprintf(answer, sizeof answer, "{\"error\": {\"class\": \"CommandNotFound\", \"desc\": \"not here\"}}\n");
        if (write(fd, answer, strlen(answer)) < 0)
            return NULL;
    }
}

/* --- where there are several CPUs, each goes through user space again and again */

/* Under emulation QEMU before 9.0 forgets what a migrating guest's CPU writes until its TLB is next emptied (src/segue/lab/kernel.py). One that
 * idles in the kernel does not empty it for long; guests stopped when what it wrote of the kernel's own had not come along. */
static void *pulse(void *cpu)
{
    cpu_set_t own;
    CPU_ZERO(&own);
    CPU_SET((uintptr_t)cpu, &own);
    sched_setaffinity(0, sizeof own, &own);
    struct timespec next;
    clock_gettime(CLOCK_MONOTONIC, &next);
    for (;;)
        wait_next(&next, PULSE_MS);
    return NULL;
}

static void choose_boot_id(void)
{
    uint64_t seed = 0;
    struct timeval now;
    gettimeofday(&now, NULL);
    if (getrandom(&seed, sizeof seed, GRND_INSECURE) < 0) /* never waits: uniqueness is wanted, not secrecy */
        seed = 0; /* the clocks below have to do */
    seed = mix(seed ^ mix(now.tv_sec * 1000000ull + now.tv_usec) ^ __builtin_ia32_rdtsc());
    snprintf(boot, sizeof boot, "%08x", (uint32_t)(seed >> 16));
}

static void start(void *(*work)(void *), void *given)
{
    pthread_t thread;
    if (pthread_create(&thread, NULL, work, given))
        say("E %s no thread\n", boot);
}

int main(int count, char **words)
{
    if (count != 5 && count != 8)
        return 2;
    choose_boot_id();
    struct memory memory = {
        .touch_bytes = strtoull(words[2], NULL, 10) * MIB,
        .set_bytes = strtoull(words[3], NULL, 10) * MIB,
        .rate_bps = strcmp(words[4], "max") ? strtoull(words[4], NULL, 10) * MIB : UINT64_MAX,
        .on_ms = count == 8 ? strtoull(words[5], NULL, 10) : 0,
        .off_ms = count == 8 ? strtoull(words[6], NULL, 10) : 0,
        .text = count == 8 && !strcmp(words[7], "text"),
        .whole = count == 8 && !strcmp(words[7], "whole"),
    };
    if (memory.touch_bytes < PAGE)
        memory.touch_bytes = PAGE;
    start(tick, NULL);
    start(echo, words[1]);
    start(write_disk, NULL);
    start(tell_time, NULL);
    for (long cpu = 0, cpus = sysconf(_SC_NPROCESSORS_ONLN); cpus > 1 && cpu < cpus; cpu++)
        start(pulse, (void *)cpu);
    write_memory(&memory);
    for (;;)
        pause();
}
