/* SPDX-License-Identifier: Apache-2.0 */
/*
 * image_keep - putting images into the store.
 */
#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "cli/image.h"

/* What is data of [at, end): a hole adds nothing. */
static int hash_range(EVP_MD_CTX *ctx, int fd, off_t at, off_t end, u8 *buf,
                      size_t piece)
{
	while (at < end) {
		ssize_t n = pread(fd, buf, MIN(piece, (size_t)(end - at)), at);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		EVP_DigestUpdate(ctx, buf, (size_t)n);
		at += n;
	}
	return 0;
}

static int hash_add(EVP_MD_CTX *ctx, const char *path)
{
	static const size_t piece = 1 << 16;
	int fd = open(path, O_RDONLY | O_CLOEXEC), rc = fd < 0 ? -errno : 0;
	u8 *buf = xalloc(piece);
	off_t at = 0, end;

	while (rc == 0 && (at = lseek(fd, at, SEEK_DATA)) >= 0) {
		end = lseek(fd, at, SEEK_HOLE);
		rc =
		    end < 0 ? -errno : hash_range(ctx, fd, at, end, buf, piece);
		at = end;
	}
	if (rc == 0 && errno != ENXIO)
		rc = -errno;
	if (fd >= 0)
		close(fd);
	free(buf);
	return rc;
}

static int hash_end(EVP_MD_CTX *ctx, int rc, char hex[IMAGE_HEX])
{
	u8 digest[EVP_MAX_MD_SIZE];
	unsigned len = 0;

	if (rc == 0)
		EVP_DigestFinal_ex(ctx, digest, &len);
	for (unsigned i = 0; i < len; i++)
		snprintf(hex + 2 * (size_t)i, 3, "%02x", digest[i]);
	EVP_MD_CTX_free(ctx);
	return rc;
}

int image_hash(const char *const *paths, size_t count, char hex[IMAGE_HEX],
               struct error *err)
{
	EVP_MD_CTX *ctx = EVP_MD_CTX_new();
	int rc =
	    ctx && EVP_DigestInit_ex(ctx, EVP_sha256(), NULL) ? 0 : -ENOMEM;

	for (size_t i = 0; i < count && rc == 0; i++) {
		rc = hash_add(ctx, paths[i]);
		if (rc < 0)
			error_set(err, rc, "cannot read %s: %s", paths[i],
			          strerror(-rc));
	}
	return hash_end(ctx, rc, hex);
}

/* ---- of what is in an image ---- */

enum { PIECE = 1 << 16 };

static void hash_number(EVP_MD_CTX *ctx, u64 n)
{
	u8 bytes[8];

	for (unsigned i = 0; i < sizeof(bytes); i++)
		bytes[i] = (u8)(n >> (8 * i));
	EVP_DigestUpdate(ctx, bytes, sizeof(bytes));
}

static void hash_piece(EVP_MD_CTX *ctx, u64 at, const u8 *buf, size_t n)
{
	if (buf[0] == 0 && memcmp(buf, buf + 1, n - 1) == 0)
		return;
	hash_number(ctx, at);
	hash_number(ctx, n);
	EVP_DigestUpdate(ctx, buf, n);
}

/* In whole pieces, wherever data begin: that is the file system's affair. */
static int hash_pieces(EVP_MD_CTX *ctx, int fd, u64 size, u8 *buf)
{
	u64 at = 0;

	while (at < size) {
		off_t data = lseek(fd, (off_t)at, SEEK_DATA);
		size_t n;
		ssize_t got;

		if (data < 0)
			return errno == ENXIO ? 0 : -errno;
		at = (u64)data - (u64)data % PIECE;
		n = MIN((u64)PIECE, size - at);
		got = pread(fd, buf, n, (off_t)at);
		if (got < 0 && errno == EINTR)
			continue;
		if (got != (ssize_t)n)
			return got < 0 ? -errno : -EIO;
		hash_piece(ctx, at, buf, n);
		at += n;
	}
	return 0;
}

static int hash_placed(EVP_MD_CTX *ctx, const char *folder, const char *name,
                       struct error *err)
{
	char *path = xasprintf("%s/%s", folder, name);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	u8 *buf = xalloc(PIECE);
	struct stat st;
	int rc = fd < 0 || fstat(fd, &st) < 0 ? -errno : 0;

	if (rc == 0) {
		EVP_DigestUpdate(ctx, name, strlen(name) + 1);
		hash_number(ctx, (u64)st.st_size);
		rc = hash_pieces(ctx, fd, (u64)st.st_size, buf);
	}
	if (rc < 0)
		error_set(err, rc, "cannot read %s: %s", path, strerror(-rc));
	if (fd >= 0)
		close(fd);
	free(buf);
	free(path);
	return rc;
}

int image_hash_content(const char *folder, const char *cmdline,
                       char hex[IMAGE_HEX], struct error *err)
{
	static const char *const files[] = { "disk.raw", "vmlinuz", "initrd" };
	EVP_MD_CTX *ctx = EVP_MD_CTX_new();
	int rc =
	    ctx && EVP_DigestInit_ex(ctx, EVP_sha256(), NULL) ? 0 : -ENOMEM;

	if (rc < 0)
		error_set(err, rc, "no memory");
	for (size_t i = 0; i < ARRAY_SIZE(files) && rc == 0; i++)
		rc = hash_placed(ctx, folder, files[i], err);
	if (rc == 0)
		EVP_DigestUpdate(ctx, cmdline, strlen(cmdline));
	return hash_end(ctx, rc, hex);
}

int image_note_file(json_t *files, const char *folder, const char *name,
                    bool hashed, struct error *err)
{
	char *path = xasprintf("%s/%s", folder, name), hex[IMAGE_HEX] = "";
	const char *one = path;
	struct stat st = { 0 };
	json_t *file = json_object();
	int rc = 0;

	json_object_set_new(files, name, file);
	if (stat(path, &st) == 0)
		json_object_set_new(file, "bytes", json_integer(st.st_size));
	if (hashed)
		rc = image_hash(&one, 1, hex, err);
	if (hashed && rc == 0)
		json_object_set_new(file, "sha256", json_string(hex));
	free(path);
	return rc;
}

void image_remove_tree(const char *folder)
{
	char *argv[] = { (char[]){ "rm" }, (char[]){ "-rf" }, (char[]){ "--" },
		         NULL, NULL };
	pid_t pid;

	argv[3] = xstrdup(folder);
	pid = fork();
	if (pid == 0) {
		execvp("rm", argv);
		_exit(127);
	}
	if (pid > 0)
		waitpid(pid, NULL, 0);
	free(argv[3]);
}

/* Whoever makes them has the lock. What a failed build leaves is kept: it says
 * why. */
static void remove_dead(const char *store)
{
	static const char *const names[] = { ".importing", ".exporting",
		                             ".dead-importing",
		                             ".dead-exporting" };

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		char *path = xasprintf("%s/%s", store, names[i]);

		if (access(path, F_OK) == 0)
			image_remove_tree(path);
		free(path);
	}
}

int image_lock(const char *store, struct error *err)
{
	char *path = xasprintf("%s/.lock", store);
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);

	if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) < 0) {
		fprintf(stderr, "waiting for another command to end\n");
		if (flock(fd, LOCK_EX) < 0) {
			close(fd);
			fd = -1;
		}
	}
	if (fd < 0)
		error_set(err, -errno, "cannot lock %s: %s", path,
		          strerror(errno));
	else
		remove_dead(store);
	free(path);
	return fd;
}

void image_tidy(const char *store)
{
	char *path = xasprintf("%s/.lock", store);
	int fd = open(path, O_RDWR | O_CLOEXEC);

	if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0)
		remove_dead(store);
	if (fd >= 0)
		close(fd);
	free(path);
}

int image_set_name(const char *store, const char *name, const char *id,
                   struct error *err)
{
	char *target = xasprintf("../%s", id);
	char *fresh = xasprintf("%s/names/.new", store);
	char *path = xasprintf("%s/names/%s", store, name);
	int rc = 0;

	unlink(fresh);
	if (symlink(target, fresh) < 0 || rename(fresh, path) < 0)
		rc = error_set(err, -errno, "cannot name the image %s: %s",
		               path, strerror(errno));
	free(target);
	free(fresh);
	free(path);
	return rc;
}

int image_settle(const char *store, const char *work, const char *id,
                 struct error *err)
{
	char *folder = xasprintf("%s/%s", store, id);
	char *disk = xasprintf("%s/disk.raw", work);
	int rc = 0;

	/* Clones lie on it: nothing may be merged into it. */
	if (chmod(disk, 0444) < 0)
		rc = error_set(err, -errno, "%s: %s", disk, strerror(errno));
	else if (access(folder, F_OK) == 0)
		image_remove_tree(work);
	else if (rename(work, folder) < 0)
		rc = error_set(err, -errno, "cannot move the image to %s: %s",
		               folder, strerror(errno));
	free(disk);
	free(folder);
	return rc;
}

int image_run(char *const *argv, bool quiet, struct error *err)
{
	int status = 0;
	pid_t pid = fork();

	if (pid == 0) {
		int null = quiet ? open("/dev/null", O_RDWR) : -1;

		/* What it writes is removed when a signal ends us. */
		prctl(PR_SET_PDEATHSIG, SIGTERM);

		if (null >= 0) {
			dup2(null, STDOUT_FILENO);
			dup2(null, STDERR_FILENO);
		}
		execvp(argv[0], argv);
		_exit(127);
	}
	if (pid < 0)
		return error_set(err, -errno, "cannot start a process: %s",
		                 strerror(errno));
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
		return 0;
	if (WIFEXITED(status) && WEXITSTATUS(status) == 127)
		return error_set(err, -ENOENT, "%s is not installed", argv[0]);
	return error_set(err, -EIO, "%s failed", argv[0]);
}
