# SPDX-License-Identifier: Apache-2.0
# The marker guest: a boot sector that only a processor that really works gets through.
#
# real mode -> long mode with paging -> 32 timer interrupts from hlt, a cpuid each ->
# "FORECOURT-MARKER" on COM1 -> end by QEMU's isa-debug-exit (port 0xf4, value 0x2a: exit 85).
#
# marker.bin is this file, made with
#   as --64 marker.S -o marker.o && ld -Ttext 0x7c00 --oformat binary marker.o -o marker.bin
        .code16
        .globl _start
_start:
        cli
        xorw    %ax, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss
        movw    $0x7c00, %sp
        cld
        # Page tables at 0x1000 (PML4), 0x2000 (PDPT), 0x3000 (PD): the first 1 GiB, 2 MiB pages.
        movw    $0x1000, %di
        movw    $0x1800, %cx
        rep stosw
        movl    $0x2003, 0x1000
        movl    $0x3003, 0x2000
        movw    $0x3000, %di
        movl    $0x83, %eax
1:      movl    %eax, (%di)
        addw    $8, %di
        addl    $0x200000, %eax
        cmpw    $0x4000, %di
        jb      1b
        # PAE, page tables, EFER.LME, protection and paging.
        movl    $0x20, %eax
        movl    %eax, %cr4
        movl    $0x1000, %eax
        movl    %eax, %cr3
        movl    $0xc0000080, %ecx
        rdmsr
        orl     $0x100, %eax
        wrmsr
        movl    $0x80000001, %eax
        movl    %eax, %cr0
        lgdtl   gdt_pointer
        ljmpl   $8, $long_mode

        .code64
long_mode:
        movw    $16, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss
        movq    $0x7c00, %rsp
        # IDT at 0x5000: vector 32 is the timer.
        movq    $0x5000 + 32 * 16, %rdi
        movq    $timer, %rax
        movw    %ax, (%rdi)
        movw    $8, 2(%rdi)
        movw    $0x8e00, 4(%rdi)
        movw    $0, 6(%rdi)
        movq    $0, 8(%rdi)
        lidt    idt_pointer
        # PIC: vectors from 32, timer alone; PIT: 1 kHz.
        movw    $pic_table, %si
        movzwl  %si, %esi
        movl    $(pic_table_end - pic_table) / 2, %ecx
2:      lodsb
        movzbl  %al, %edx
        lodsb
        outb    %al, %dx
        loop    2b
        xorl    %ebx, %ebx
        movl    %ebx, ticks
        sti
3:      hlt
        xorl    %eax, %eax
        cpuid
        cmpl    $32, ticks
        jb      3b
        cli
        # Say so on the serial port, then end.
        movl    $text, %esi
        movl    $text_end - text, %ecx
        movw    $0x3f8, %dx
        rep outsb
        movb    $0x2a, %al
        outb    %al, $0xf4
4:      hlt
        jmp     4b

timer:
        pushq   %rax
        incl    ticks
        movb    $0x20, %al
        outb    %al, $0x20
        popq    %rax
        iretq

pic_table:
        .byte   0x20, 0x11, 0xa0, 0x11, 0x21, 0x20, 0xa1, 0x28, 0x21, 0x04, 0xa1, 0x02
        .byte   0x21, 0x01, 0xa1, 0x01, 0x21, 0xfe, 0xa1, 0xff
        .byte   0x43, 0x34, 0x40, 0xa9, 0x40, 0x04
pic_table_end:
text:   .ascii  "FORECOURT-MARKER\n"
text_end:
        .balign 8
gdt:    .quad   0
        .quad   0x00209a0000000000
        .quad   0x0000920000000000
gdt_pointer:
        .word   . - gdt - 1
        .long   gdt
idt_pointer:
        .word   33 * 16 - 1
        .quad   0x5000
        .equ    ticks, 0x7000
        .org    510
        .word   0xaa55
