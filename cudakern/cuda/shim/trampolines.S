// One trampoline for each function of functions.inc. It jumps to the driver's function, whose arguments lie untouched
// in registers and on the stack, so that no signature is needed here. The first call looks the function up: the
// registers that may hold arguments are kept over that call.

#define FUNCTION(symbol) trampoline symbol

.set index, 0
.text

#if defined(__x86_64__)

.macro trampoline symbol
.globl \symbol
.type \symbol, @function
\symbol:
	movq colonnade_slots+8*index(%rip), %rax
	testq %rax, %rax
	je 1f
	jmpq *%rax
1:	movl $index, %eax
	jmp look_up
.size \symbol, .-\symbol
.set index, index+1
.endm

.type look_up, @function
look_up:
	.cfi_startproc
	pushq %rdi
	.cfi_adjust_cfa_offset 8
	pushq %rsi
	.cfi_adjust_cfa_offset 8
	pushq %rdx
	.cfi_adjust_cfa_offset 8
	pushq %rcx
	.cfi_adjust_cfa_offset 8
	pushq %r8
	.cfi_adjust_cfa_offset 8
	pushq %r9
	.cfi_adjust_cfa_offset 8
	subq $136, %rsp // eight vectors, and the stack stays aligned to 16
	.cfi_adjust_cfa_offset 136
	movups %xmm0, (%rsp)
	movups %xmm1, 16(%rsp)
	movups %xmm2, 32(%rsp)
	movups %xmm3, 48(%rsp)
	movups %xmm4, 64(%rsp)
	movups %xmm5, 80(%rsp)
	movups %xmm6, 96(%rsp)
	movups %xmm7, 112(%rsp)
	movl %eax, %edi
	call colonnade_resolve
	movups (%rsp), %xmm0
	movups 16(%rsp), %xmm1
	movups 32(%rsp), %xmm2
	movups 48(%rsp), %xmm3
	movups 64(%rsp), %xmm4
	movups 80(%rsp), %xmm5
	movups 96(%rsp), %xmm6
	movups 112(%rsp), %xmm7
	addq $136, %rsp
	.cfi_adjust_cfa_offset -136
	popq %r9
	.cfi_adjust_cfa_offset -8
	popq %r8
	.cfi_adjust_cfa_offset -8
	popq %rcx
	.cfi_adjust_cfa_offset -8
	popq %rdx
	.cfi_adjust_cfa_offset -8
	popq %rsi
	.cfi_adjust_cfa_offset -8
	popq %rdi
	.cfi_adjust_cfa_offset -8
	jmpq *%rax
	.cfi_endproc
.size look_up, .-look_up

#elif defined(__aarch64__)

.macro trampoline symbol
.globl \symbol
.type \symbol, %function
.balign 4
\symbol:
	adrp x17, colonnade_slots
	add x17, x17, :lo12:colonnade_slots
	add x17, x17, #8*index
	ldar x16, [x17]
	cbz x16, 1f
	br x16
1:	mov w16, #index
	b look_up
.size \symbol, .-\symbol
.set index, index+1
.endm

.type look_up, %function
.balign 4
look_up:
	.cfi_startproc
	stp x29, x30, [sp, #-208]!
	.cfi_def_cfa_offset 208
	.cfi_offset x29, -208
	.cfi_offset x30, -200
	mov x29, sp
	stp x0, x1, [sp, #16]
	stp x2, x3, [sp, #32]
	stp x4, x5, [sp, #48]
	stp x6, x7, [sp, #64]
	stp q0, q1, [sp, #80]
	stp q2, q3, [sp, #112]
	stp q4, q5, [sp, #144]
	stp q6, q7, [sp, #176]
	mov w0, w16
	bl colonnade_resolve
	mov x16, x0
	ldp x0, x1, [sp, #16]
	ldp x2, x3, [sp, #32]
	ldp x4, x5, [sp, #48]
	ldp x6, x7, [sp, #64]
	ldp q0, q1, [sp, #80]
	ldp q2, q3, [sp, #112]
	ldp q4, q5, [sp, #144]
	ldp q6, q7, [sp, #176]
	ldp x29, x30, [sp], #208
	.cfi_restore x29
	.cfi_restore x30
	.cfi_def_cfa_offset 0
	br x16
	.cfi_endproc
.size look_up, .-look_up

#else
#error "the driver shim knows x86-64 and aarch64; NVIDIA has drivers for no other 64-bit Linux"
#endif

#include "functions.inc"

.section .note.GNU-stack, "", %progbits
