/* ptx.h - the plugin's kernels as nvcc left them, without a GPU: the PTX in its object files, run instruction by instruction.
 * What the host build of the same sources cannot show: the strings of inline assembly, what only nvcc compiles, and what it makes of the rest.
 * Written from the PTX manual; fragments of mma and ldmatrix from CUTLASS' tables, not from what ptx.h and warp.cpp say.
 * Layer: tests/cuda_host.  Threading: what is read is not changed; a launch runs on one thread, under the shim's lock. */
#ifndef TESTS_CUDA_HOST_PTX_H
#define TESTS_CUDA_HOST_PTX_H

#include "block.h"

#include <string>

namespace ptx {
enum op {
    MOV, ADD, SUB, MUL_LO, MUL_WIDE, MUL_HI, MAD_LO, FMA, DIV, REM, MIN, MAX, NEG, ABS, AND, OR, XOR, NOT, SHL, SHR, SETP, SELP, CVT, BFI, BREV, BFIND, CLZ,
    POPC, PRMT, LOP3, COPYSIGN, SQRT, RCP, EX2, FMA_H2, MUL_H2, SUB_H2, ADD_H2, LD, ST, ATOM, SHFL, VOTE, REDUX, BAR, BAR_RED, BAR_WARP, BRA, RET,
    CP_ASYNC, CP_COMMIT, CP_WAIT, LDMATRIX, MMA
};
enum compare { EQ, NE, LT, LE, GT, GE, NUM, NOT_A_NUM, EQU, NEU, LTU, LEU, GTU, GEU };
enum space { GLOBAL, SHARED, PARAM };      /* of an address; a parameter's is the host's */

struct inst {
    ptx::op op;
    char type;                             /* of the last type in its name: b u s f; p: a predicate; g: bf16 */
    int bits;
    std::string to, from;                  /* cvt */
    int pred = -1; bool unless = false;    /* runs where this register is (not) 0 */
    int how = 0;                           /* compare; 0 add, 1 or */
    ptx::space space = GLOBAL;
    bool rn = false, rni = false, sat = false, trans = false, bf16 = false, parts = false;      /* parts: mov to several registers */
    std::vector<int> d, s;                 /* registers; an address' register first in s, its offset in `number` */
    long number = 0;                       /* also: groups that may be under way; where a branch goes */
    std::string text;
};

/* Registers have numbers, as have constants, special registers and addresses, which are put there when a warp begins. */
enum { TID, NTID = 3, CTAID = 6, NCTAID = 9, LANE = 12, N_SPECIAL };
struct kernel {
    std::string name;
    std::vector<inst> code;
    std::vector<size_t> params;            /* bytes of each */
    std::vector<std::pair<int, uint64_t>> constants;
    std::vector<std::pair<int, size_t>> addresses;         /* of static shared memory */
    std::vector<std::pair<int, unsigned>> param_addresses;
    int dynamic = -1;                      /* register with the address of dynamic shared memory */
    int n_registers = N_SPECIAL;
    size_t shared = 0;                     /* static bytes */
};

/* All kernels of a module.  What it does not know ends the process: a test that skips an instruction tests nothing. */
std::vector<kernel> read(const std::string &text);
[[noreturn]] void unknown(const std::string &kernel, const std::string &what);

inline uint64_t low(uint64_t v, int bits) { return bits >= 64 ? v : v & ((static_cast<uint64_t>(1) << bits) - 1); }
/* One lane's answer of an instruction that only computes. */
uint64_t value(const inst &i, const uint64_t *s);
/* Of a warp: r[register * 32 + lane]; matrices: of 8 rows of 8 each. */
void multiply(const inst &i, uint64_t *r);
void matrices(const inst &i, uint64_t *r, const unsigned short *m);

/* The current block (blockIdx), from start to end. */
void run_block(const kernel &k, const std::vector<std::vector<uint64_t>> &params, cu_site at);
}
#endif
