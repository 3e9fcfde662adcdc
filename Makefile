# SPDX-License-Identifier: Apache-2.0
#
# The short way to everything; CMake does the building. On Debian each target first installs the packages that it
# needs and that are missing (tools/deps.sh); SKIP_DEPS=1 leaves the system alone.

JOBS ?= $(shell nproc)
FUZZ_SECONDS ?= 60
DEPS = $(if $(SKIP_DEPS),@true,@tools/deps.sh)
BUILD = @JOBS=$(JOBS) tools/build.sh

.PHONY: all demo test test-asan test-tsan test-clang test-aarch64 test-install deb fuzz bench-kernels bench-footprint bench-builds bench-peers venv format install clean

all: # the command and the libraries, in build/
	$(DEPS) build
	$(BUILD) build

demo: all # compiles the trained EMG model, validates it on recorded EMG, measures it
	@tools/demo.sh build

test: # everything that must pass before a change goes in, but for the slower builds below
	$(DEPS) test
	$(BUILD) build -DTDN_TESTS=ON
	@tools/venv.sh
	@tools/test.sh build

test-asan: # C tests and small models under the address and undefined behaviour sanitizers
	$(DEPS) test
	$(BUILD) build-asan -DTDN_TESTS=ON -DTDN_SANITIZE=address,undefined
	@tools/venv.sh
	@tools/test.sh build-asan small

test-tsan: # the same under the thread sanitizer
	$(DEPS) test
	$(BUILD) build-tsan -DTDN_TESTS=ON -DTDN_SANITIZE=thread
	@tools/venv.sh
	@tools/test.sh build-tsan small

test-clang: # C tests, built by clang
	$(DEPS) test clang
	$(BUILD) build-clang -DTDN_TESTS=ON -DCMAKE_C_COMPILER=clang
	@tools/test.sh build-clang c

test-aarch64: all # built for AArch64 by gcc-aarch64-linux-gnu, run under qemu; plans from here run there
	$(DEPS) test aarch64
	@tools/sysroot.sh arm64 build-aarch64/sysroot libc6 libjansson-dev libzip-dev libcmocka-dev
	$(BUILD) build-aarch64 -DTDN_TESTS=ON --toolchain cmake/aarch64-linux-gnu.cmake \
		-DTDN_SYSROOT=$(CURDIR)/build-aarch64/sysroot
	@tools/venv.sh
	@tools/test.sh build-aarch64 aarch64

fuzz: # FUZZ_SECONDS for each target; what is found lands in build-fuzz/
	$(DEPS) build clang
	$(BUILD) build-fuzz -DTDN_FUZZ=ON -DTDN_SANITIZE=address,undefined -DCMAKE_C_COMPILER=clang
	@tools/fuzz.sh build-fuzz $(FUZZ_SECONDS)

bench-kernels: all # each kernel on the shapes of networks, beside the core's peak
	@cmake --build build --target bench_kernels -j $(JOBS) >/dev/null
	@build/bench/bench_kernels $(KERNEL)

bench-footprint: all venv # the library's size, start to first result, memory, time of builds
	@cmake --build build --target start >/dev/null
	@build/venv/bin/python bench/footprint.py

bench-builds: all venv # what time and bytes spent at build buy; BUILDS="--models tcn,policy" and the like, BUILDS=--help
	@build/venv/bin/python bench/builds.py $(BUILDS)

bench-peers: all # beside onnxruntime and openvino; PEERS="--models snn,tcn --quick" and the like, PEERS=--help
	$(DEPS) test
	@cmake --build build --target bench_machine -j $(JOBS) >/dev/null
	@tools/venv.sh bench/requirements.txt build/venv-bench
	@build/venv-bench/bin/python bench/peers.py --json build/peers.json --html build/peers.html $(PEERS)

venv: # the Python of tests and tools, in build/venv
	$(DEPS) test
	@tools/venv.sh

format:
	$(DEPS) format
	@git ls-files -co --exclude-standard -- '*.c' '*.h' | xargs clang-format -i

deb: # Debian packages of the run time, the compiler, the command and the headers, in build-deb/
	$(DEPS) build deb
	$(BUILD) build-deb -DCMAKE_INSTALL_PREFIX=/usr -DTDN_DEB=ON
	@tools/deb.sh build-deb

test-install: all deb # make install and the packages, on a bare Debian: the C example is built against them
	@tests/install.sh build build-deb

install: all # PREFIX and DESTDIR as usual
	@cmake --install build --prefix $(or $(PREFIX),/usr/local)

clean:
	rm -rf build build-asan build-tsan build-clang build-fuzz build-aarch64 build-deb
