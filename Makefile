# SPDX-License-Identifier: Apache-2.0
# Thin: meson does the work. Every goal sets up what it needs first.
BUILD ?= build
PREFIX ?= /usr/local

all: $(BUILD)/build.ninja
	@ninja -C $(BUILD)

$(BUILD)/.packages: tools/packages tools/setup
	@tools/setup
	@mkdir -p $(BUILD) && touch $@

$(BUILD)/build.ninja: $(BUILD)/.packages
	@test -f $@ || meson setup --prefix=$(PREFIX) $(BUILD)

# A Debian machine on the terminal; built the first time.
run: all
	@tools/run $(BUILD)

test: all
	@tools/run-tests $(BUILD)

# Hours: more of everything, and the sanitizers.
test-long: all
	@tools/setup long
	@tools/run-tests $(BUILD) --long

# That part of it which is the suites under ASan+UBSan and TSan.
test-sanitizers: $(BUILD)/build.ninja
	@tools/setup long
	@tools/run-tests $(BUILD) --only-sanitizers

bench: all
	@bench/run $(BUILD)
	@bench/debian $(BUILD)
	@bench/restore $(BUILD)
	@bench/fork $(BUILD)
	@bench/snapshot $(BUILD)
	@bench/guest-disk $(BUILD)
	@bench/guest-disk $(BUILD) --folder /dev/shm
	@bench/disk-tools $(BUILD)/src/cli/atoll
	@bench/daemon $(BUILD)
	@bench/network $(BUILD)

fuzz: $(BUILD)/.packages
	@fuzz/run

install: all
	@meson install -C $(BUILD)

fmt:
	@git ls-files '*.[ch]' | xargs clang-format -i

check-fmt:
	@tools/check-format

clean:
	@rm -rf $(BUILD)

.PHONY: all run test test-long test-sanitizers bench fuzz install fmt check-fmt clean
