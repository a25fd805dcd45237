# A menu. The two commands that most people need:
#   make demo      sets everything up, trains a small block diffusion model and prints what it writes, then draws what Diffusion Forcing plans and films, and the pictures that ACDiT makes (three to eight minutes on two cores)
#   make test      proves the programs right (two to four minutes, building included)
# Variables: CC=clang  OMP=0 (no OpenMP)  NVCC= (no CUDA)  CUDA_ARCH=sm_90  ARCH= (baseline instructions, runs on any machine of this family)

CC     = gcc
BUILD  = build
ARCH   = $(if $(call accepts,-march=native),-march=native)
CFLAGS = -std=gnu11 -O3 -Wall -Wextra -fno-math-errno $(ARCH) $(OPENMP) $(if $(ZLIB),,-DNO_ZLIB)

# yes if the compiler takes these flags and links
accepts = $(shell echo 'int main(void){return 0;}' | $(CC) $(1) -x c - -o /dev/null 2>/dev/null && echo yes)
OMP     ?= $(if $(call accepts,-fopenmp -include omp.h),1,0)
OPENMP   = $(if $(filter 1,$(OMP)),-fopenmp,-fopenmp-simd -Wno-unknown-pragmas)
ZLIB    := $(if $(call accepts,-lz),-lz)
LDLIBS   = -lm $(ZLIB)

# a C++ compiler of the same make: for nvcc, and for cuda_kernels.cu on the CPU, see tests/cuda_emu.h
CXX = $(if $(findstring clang,$(CC)),clang++,g++)
EMU := $(shell echo 'int main(){return 0;}' | $(CXX) $(OPENMP) -x c++ - -o /dev/null 2>/dev/null && echo 1)
# CUDA, where nvcc is: for the GPU of this machine, or, if it has none, for all since sm_75 (the driver translates when a program starts)
NVCC      ?= $(if $(EMU),$(shell command -v nvcc 2>/dev/null))
CUDA_ARCH ?= $(or $(shell nvidia-smi -L >/dev/null 2>&1 && echo native),sm_75)
NVCCFLAGS  = -std=c++17 -O3 -arch=$(CUDA_ARCH) -Xcompiler -Wall,-Wextra
ifneq ($(NVCC),)
CUDA       = $(BUILD)/cuda_kernels.o
CUDA_FLAGS = -DWITH_CUDA
CUDA_LIBS := $(shell $(NVCC) --dryrun -o /dev/null none.o 2>&1 | sed -n 's/^\#$$ LIBRARIES= *//p' | tr -d '"') -lcudart_static -lrt -lpthread -ldl -lstdc++
endif
$(info [build] CC=$(CC) $(shell $(CC) -dumpversion 2>/dev/null) OMP=$(OMP) ARCH=$(ARCH) NVCC=$(if $(NVCC),$(NVCC) $(CUDA_ARCH),none) CXX=$(if $(EMU),$(CXX),none))

PROGRAMS = bd3lm df acdit
HEADERS = common.h io.h kernels.h data/text.h data/maze.h data/video.h data/motion.h data/scores.h data/series.h data/images.h data/pictures.h data/gallery.h data/tasks.h tests/golden.h tests/check_bd3lm.h tests/check_df.h tests/check_acdit.h
KERNELS = $(BUILD)/cpu_kernels.o $(BUILD)/cpu_fast.o
.DELETE_ON_ERROR:
MAKEFLAGS += --jobs=$(or $(shell nproc 2>/dev/null),1)        # of what is built; what a recipe does stays in its order
.PHONY: all emu setup demo test test-cuda test-long mutants kernel-table bench debug data docs-check clean

# every program                                              make -j2 all CC=clang
all: $(PROGRAMS)

$(PROGRAMS): %: %.c $(HEADERS) $(KERNELS) $(CUDA) build/program-flags
	$(CC) $(CFLAGS) $(CUDA_FLAGS) $< $(KERNELS) $(CUDA) -o $@ $(LDLIBS) $(CUDA_LIBS)

# the programs with the CUDA kernels on an emulated GPU: slow, and needs no GPU      make emu && ./bd3lm_emu train --device cuda --steps 2
EMULATED = $(PROGRAMS:%=%_emu)
emu: $(EMULATED)
$(EMULATED): %_emu: %.c $(HEADERS) $(KERNELS) $(BUILD)/cuda_emu.o build/program-flags
	$(CC) $(CFLAGS) -DWITH_CUDA $< $(KERNELS) $(BUILD)/cuda_emu.o -o $@ $(LDLIBS) $(EMU_LIBS)

$(BUILD)/cuda_kernels.o: cuda_kernels.cu kernels.h $(BUILD)/flags
	@$(NVCC) $(NVCCFLAGS) -c $< -o $@ || { echo "$(NVCC) does not compile for CUDA_ARCH=$(CUDA_ARCH): make NVCC= builds everything without CUDA"; exit 1; }
EMU_FLAGS = -std=c++17 -O2 -Wall -Wextra -Wno-unknown-pragmas $(ARCH) $(OPENMP)
EMU_LIBS  = -lstdc++
$(BUILD)/cuda_emu.o: cuda_kernels.cu kernels.h tests/cuda_emu.h $(BUILD)/flags
	$(CXX) $(EMU_FLAGS) -I. -x c++ -c $< -o $@

$(BUILD)/%.o: %.c kernels.h $(BUILD)/flags
	$(CC) $(CFLAGS) -c $< -o $@

# these change whenever the compiler, a flag or (for the programs, which all builds share) BUILD changes, and then everything is built again
$(BUILD)/flags build/program-flags: FORCE
	@mkdir -p $(@D)
	@echo '$(CC) $(CFLAGS) $(LDLIBS) $(BUILD) $(NVCC) $(CUDA_ARCH)' | cmp -s - $@ || echo '$(CC) $(CFLAGS) $(LDLIBS) $(BUILD) $(NVCC) $(CUDA_ARCH)' > $@
FORCE:

# ---- data and demo ------------------------------------------------------------------------------------------------------------

# installs what the build lacks, and libraries for pictures and curves, where root or sudo allows; otherwise names them      make setup CC=clang
setup:
	@sh data/setup.sh $(CC)

# the packaged corpus: the King James text into data/cache/kjv.txt      make data && ./bd3lm train
data:
	@sh data/get.sh kjv

STEPS = 3000
# set-up, data, build, training, a text written before your eyes, and how good it is; then paths, plans and videos of Diffusion Forcing, and pictures of clothes
# by ACDiT: three to eight minutes on two cores      make demo STEPS=100
demo: setup
	@sh data/get.sh kjv || { echo "without the corpus the demo trains on README.md and NOTES.md"; mkdir -p $(BUILD); cat README.md NOTES.md > $(BUILD)/text.txt; }
	@$(MAKE) --no-print-directory all
	@text=data/cache/kjv.txt; [ -s $$text ] || text=$(BUILD)/text.txt; ./bd3lm train --data $$text --out out/demo --force --steps $(STEPS) --clip-min 0.45
	@watch=; [ -t 1 ] && watch=--watch; ./bd3lm sample --out out/demo --chars 600 --prompt 'In the beginning' $$watch
	@./bd3lm sample --out out/demo --samples 16 --quality > out/demo/samples.txt; echo '16 texts of 512 characters (out/demo/samples.txt) beside held-out text:'; tail -n 2 out/demo/samples.txt
	@./df train --task cross --out out/demo-cross --force --steps $$(($(STEPS) / 3)) && ./df sample --task cross --out out/demo-cross
	@./df train --task maze2d --out out/demo-maze --force --steps $$(($(STEPS) / 5)) --lr 1e-3 && ./df sample --task maze2d --out out/demo-maze --guidance 3
	@./df train --task video --out out/demo-video --force --steps $$(($(STEPS) / 5)) --lr 2e-3 && ./df sample --task video --out out/demo-video --length 200
	@if sh data/get.sh fashion; then \
		./acdit classify --classifier out/demo-classifier --force --epochs 4 && ./acdit train --out out/demo-acdit --force --steps $$(($(STEPS) * 5 / 6)) --batch 16 && \
		./acdit sample --out out/demo-acdit --classifier out/demo-classifier; \
	else echo "without Fashion-MNIST acdit makes videos, each of a kind of motion" && ./acdit train --data video --blocks 4 --out out/demo-acdit --force --steps $$(($(STEPS) / 3)) && ./acdit sample --out out/demo-acdit --samples 2; fi
	@sh figures/demo.sh

# this machine's peaks, every kernel beside them, training and sampling of three sizes, PyTorch where it is installed; two to six minutes
#      make bench
bench: $(BUILD)/bench_kernels $(BUILD)/bench_steps df acdit
	@sh tests/bench.sh $(BUILD)
$(BUILD)/bench_kernels: tests/bench_kernels.c cpu_fast.c $(BUILD)/cpu_kernels.o kernels.h $(BUILD)/flags
	$(CC) $(CFLAGS) $< $(BUILD)/cpu_kernels.o -o $@ $(LDLIBS)
$(BUILD)/bench_steps: tests/bench_steps.c bd3lm.c $(KERNELS) $(HEADERS) $(BUILD)/flags
	$(CC) $(CFLAGS) $< $(KERNELS) -o $@ $(LDLIBS)

# every command, function, test and file that the documents name exists and runs      make docs-check
docs-check: all $(if $(EMU),$(EMULATED))
	@sh tests/docs.sh

# what nvcc says about every CUDA kernel, and what a step needs at least: written into NOTES.md      make kernel-table
kernel-table:
	@sh tests/kernel_table.sh --write

# removes what was built, not what was downloaded or trained      make clean all
clean:
	rm -rf $(BUILD) $(PROGRAMS) $(EMULATED) $(DEBUG)

# ---- tests --------------------------------------------------------------------------------------------------------------------
# The plain kernels in double are the oracle of parity, and let gradients be checked to 1e-7.
DOUBLE = -Dreal=double
TESTS  = $(BUILD)/test_common $(BUILD)/test_video $(BUILD)/test_motion $(BUILD)/test_scores $(BUILD)/test_series $(BUILD)/test_images $(BUILD)/test_maze $(BUILD)/test_ops $(BUILD)/test_bd3lm64 $(BUILD)/test_bd3lm $(BUILD)/test_df64 $(BUILD)/test_df $(BUILD)/test_acdit64 $(BUILD)/test_acdit $(PROGRAMS:%=$(BUILD)/test_check_%) $(PROGRAMS:%=$(BUILD)/%64) $(BUILD)/poison $(BUILD)/fuzz $(BUILD)/fuzz_df $(BUILD)/fuzz_acdit
TEST_HEADERS = $(HEADERS) tests/check.h tests/close.h tests/allocations.h

$(BUILD)/cpu64.so: cpu_kernels.c kernels.h $(BUILD)/flags
	$(CC) $(CFLAGS) $(DOUBLE) -fPIC -shared $< -o $@ $(LDLIBS)
$(BUILD)/cpu64.o: cpu_kernels.c kernels.h $(BUILD)/flags
	$(CC) $(CFLAGS) $(DOUBLE) -c $< -o $@
$(BUILD)/parity: tests/parity.c cpu_fast.c $(BUILD)/cpu_kernels.o $(TEST_HEADERS) $(BUILD)/flags
	$(CC) $(CFLAGS) $< $(BUILD)/cpu_kernels.o -o $@ $(LDLIBS) -ldl
$(BUILD)/parity_amx: tests/parity.c tests/amx_emu.h cpu_fast.c $(BUILD)/cpu_kernels.o $(TEST_HEADERS) $(BUILD)/flags
	$(CC) $(CFLAGS) -Wno-psabi -I. -DEMULATE_AMX $< $(BUILD)/cpu_kernels.o -o $@ $(LDLIBS) -ldl
# the CUDA kernels: emulated, and on a GPU
$(BUILD)/parity_emu: tests/parity.c $(BUILD)/cpu_kernels.o $(BUILD)/cuda_emu.o $(TEST_HEADERS) $(BUILD)/flags
	$(CC) $(CFLAGS) -DWITH_CUDA -DCUDA_EMU $< $(BUILD)/cpu_kernels.o $(BUILD)/cuda_emu.o -o $@ $(LDLIBS) -ldl $(EMU_LIBS)
$(BUILD)/parity_cuda: tests/parity.c $(BUILD)/cpu_kernels.o $(BUILD)/cuda_kernels.o $(TEST_HEADERS) $(BUILD)/flags
	$(CC) $(CFLAGS) -DWITH_CUDA $< $(BUILD)/cpu_kernels.o $(BUILD)/cuda_kernels.o -o $@ $(LDLIBS) $(CUDA_LIBS)
$(BUILD)/test_emu: tests/test_emu.cu tests/cuda_emu.h tests/check.h $(BUILD)/flags
	$(CXX) $(EMU_FLAGS) -x c++ $< -o $@
$(BUILD)/test_ops: tests/test_ops.c $(BUILD)/cpu64.o $(TEST_HEADERS) $(BUILD)/flags
	$(CC) $(CFLAGS) $(DOUBLE) $< $(BUILD)/cpu64.o -o $@ $(LDLIBS)
$(PROGRAMS:%=$(BUILD)/test_%64): $(BUILD)/test_%64: tests/test_%.c %.c $(BUILD)/cpu64.o $(TEST_HEADERS) $(BUILD)/flags
	$(CC) $(CFLAGS) $(DOUBLE) $< $(BUILD)/cpu64.o -o $@ $(LDLIBS) -ldl
$(BUILD)/test_%: tests/test_%.c $(PROGRAMS:%=%.c) $(KERNELS) $(TEST_HEADERS) $(BUILD)/flags
	$(CC) $(CFLAGS) $< $(KERNELS) -o $@ $(LDLIBS) -ldl
# the fuzzer wants sanitizers; a compiler without them must do
SANITIZE = $(if $(call accepts,-fsanitize=address -fsanitize=undefined),-O1 -g -fsanitize=address -fsanitize=undefined -fno-sanitize-recover=undefined)
$(BUILD)/fuzz: tests/fuzz.c bd3lm.c $(KERNELS) $(TEST_HEADERS) $(BUILD)/flags
	$(CC) $(CFLAGS) $(SANITIZE) -DPROGRAM='"../bd3lm.c"' $< $(KERNELS) -o $@ $(LDLIBS)
$(BUILD)/fuzz_df: tests/fuzz.c df.c $(KERNELS) $(TEST_HEADERS) $(BUILD)/flags
	$(CC) $(CFLAGS) $(SANITIZE) -DPROGRAM='"../df.c"' -DDF $< $(KERNELS) -o $@ $(LDLIBS)
$(BUILD)/fuzz_acdit: tests/fuzz.c acdit.c $(KERNELS) $(TEST_HEADERS) $(BUILD)/flags
	$(CC) $(CFLAGS) $(SANITIZE) -DPROGRAM='"../acdit.c"' -DACDIT $< $(KERNELS) -o $@ $(LDLIBS)
$(BUILD)/kill: tests/kill.c io.h kernels.h tests/check.h $(BUILD)/flags
	$(CC) $(CFLAGS) $< -o $@ $(LDLIBS)
$(BUILD)/poison: tests/poison.c io.h $(BUILD)/flags
	$(CC) $(CFLAGS) $< -o $@ $(LDLIBS)
$(PROGRAMS:%=$(BUILD)/%64): $(BUILD)/%64: %.c $(BUILD)/cpu64.o $(HEADERS) $(BUILD)/flags
	$(CC) $(CFLAGS) $(DOUBLE) $< $(BUILD)/cpu64.o -o $@ $(LDLIBS)
$(PROGRAMS:%=$(BUILD)/test_check_%): $(BUILD)/test_check_%: tests/test_check.c %.c $(KERNELS) $(TEST_HEADERS) $(BUILD)/flags
	$(CC) $(CFLAGS) -DPROGRAM='"../$*.c"' $< $(KERNELS) -o $@ $(LDLIBS)

# proves the programs right: kernels, gradients, the method's equalities, golden files, the command line      make test CC=clang OMP=0
test: all $(TESTS) $(BUILD)/parity $(BUILD)/parity_amx $(BUILD)/cpu64.so $(if $(EMU),$(BUILD)/parity_emu $(BUILD)/test_emu $(EMULATED))
	@BUILD=$(BUILD) EMU=$(EMU) sh tests/run.sh

# the CUDA kernels on the GPU of this machine: parity, golden files, the whole program; says so where there is none      make test-cuda
test-cuda: all $(BUILD)/cpu64.so $(if $(NVCC),$(BUILD)/parity_cuda)
	@BUILD=$(BUILD) NVCC='$(NVCC)' sh tests/cuda.sh

# breaks the CUDA kernels in one place after the other: do the tests notice? a quarter of an hour on two cores      make mutants
mutants: $(BUILD)/cpu64.so $(BUILD)/cpu_kernels.o
	@CC='$(CC) $(CFLAGS)' LIBS='$(LDLIBS) -ldl $(EMU_LIBS)' sh tests/mutants.sh $(BUILD) $(CXX) $(subst -O2,-O1,$(EMU_FLAGS)) -w -I. -x c++

# the same under sanitizers, with the fake device, with clang, without OpenMP, for the baseline processor; all golden files of GOLDEN=DIR
#      make test-long GOLDEN=../golden/bd3lm
test-long:
	@CC='$(CC)' sh tests/long.sh

# sanitizers and the fake device: memory of tensors is out of reach except inside kernels and transfers      make debug && ./bd3lm_debug train --steps 2
DEBUG_CFLAGS = -std=gnu11 -O1 -g -Wall -Wextra -fno-math-errno $(OPENMP) -fsanitize=address,undefined -fno-sanitize-recover=undefined -DFAKE_DEVICE
DEBUG = $(PROGRAMS:%=%_debug)
debug: $(DEBUG)
$(DEBUG): %_debug: %.c cpu_kernels.c cpu_fast.c $(HEADERS) $(BUILD)/flags
	$(CC) $(DEBUG_CFLAGS) $< cpu_kernels.c cpu_fast.c -o $@ $(LDLIBS)
