// From QEMU's PVH entry (32 bits, flat segments, no paging; xen/include/public/arch-x86/hvm/start_info.h)
// to Rust in 64-bit mode, with the first 4 GiB mapped to the same numbers.

.section .note.pvh, "a", @note
.balign 4
.long 4                         // length of the name
.long 8                         // length of the entry's address
.long 18                        // XEN_ELFNOTE_PHYS32_ENTRY
.asciz "Xen"
.quad start32

.section .text.start, "ax"
.code32
.global start32
start32:
    cli
    cld
    mov esp, offset stack_end

    // Blocks of 2 MiB; from where devices begin on, uncached.
    mov edi, offset directories
    mov eax, 0x83               // present, writable, a block
    mov ecx, 2048
2:  cmp eax, 0xb0000083
    jne 3f
    or eax, 0x18                // write through, not cached
3:  mov [edi], eax
    mov dword ptr [edi + 4], 0
    add eax, 0x200000
    add edi, 8
    dec ecx
    jnz 2b

    mov edi, offset pointers
    mov eax, offset directories
    or eax, 3
    mov ecx, 4
4:  mov [edi], eax
    add eax, 4096
    add edi, 8
    dec ecx
    jnz 4b
    mov eax, offset pointers
    or eax, 3
    mov dword ptr [root], eax

    mov eax, offset root
    mov cr3, eax
    mov eax, cr4
    or eax, 0x20                // PAE
    mov cr4, eax
    mov ecx, 0xc0000080         // EFER
    rdmsr
    or eax, 0x100               // LME
    wrmsr
    mov eax, cr0
    or eax, 0x80000001          // paging, protection
    mov cr0, eax
    lgdt [segments_end]
    push 8
    mov eax, offset start64
    push eax
    retf

.code64
start64:
    mov eax, 16
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov edi, ebx                // the start information
    call {main}

// One entry for each vector: its number, then what all have.
.section .text.entries, "ax"
.balign 16
.global exception_entries
exception_entries:
.irp vector, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
    .balign 16
    push \vector
    jmp exception_entry
.endr

.balign 16
.global interrupt_entries
interrupt_entries:
.irp vector, 32,33,34,35,36,37,38,39,40,41,42,43,44,45,46,47
    .balign 16
    push \vector
    jmp interrupt_entry
.endr

exception_entry:
    mov rdi, [rsp]
    mov rsi, [rsp + 8]          // an error code, or where it happened
    mov rdx, [rsp + 16]
    and rsp, -16
    call {exception}

interrupt_entry:
    push rax
    push rcx
    push rdx
    push rsi
    push rdi
    push r8
    push r9
    push r10
    push r11
    mov rdi, [rsp + 72]
    sub rsp, 8                  // calls are made on a multiple of 16
    cld
    call {interrupt}
    add rsp, 8
    pop r11
    pop r10
    pop r9
    pop r8
    pop rdi
    pop rsi
    pop rdx
    pop rcx
    pop rax
    add rsp, 8
    iretq

.section .data.segments, "aw"
.balign 8
segments:
    .quad 0
    .quad 0x00af9a000000ffff    // code, 64 bits
    .quad 0x00cf92000000ffff    // data
segments_end:
    .word segments_end - segments - 1
    .long segments

.section .bss.start, "aw", @nobits
.balign 4096
root:
    .skip 4096
pointers:
    .skip 4096
directories:
    .skip 4 * 4096
stack:
    .skip 256 * 1024
stack_end:
