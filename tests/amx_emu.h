// amx_emu.h: the tile instructions of AMX in plain C, so that the code in cpu_fast.c that uses them is tested on any machine.
// A tile register is 16 rows of 64 bytes. Tiles start as NaN, and nothing may be used before _tile_loadconfig or after _tile_release.
#pragma once
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static _Thread_local unsigned char amx_tile[8][16][64];
static _Thread_local int amx_ready;

static void amx_need(void) { if (!amx_ready) abort(); }
static float amx_bf16(const unsigned char *p) { uint32_t bits = (uint32_t)(p[0] | p[1] << 8) << 16; float f; memcpy(&f, &bits, 4); return f; }

static void _tile_loadconfig(const void *config) {
    const unsigned char *c = config;
    if (c[0] != 1) abort();
    for (int t = 0; t < 8; t++) if (c[16 + 2*t] != 64 || c[17 + 2*t] != 0 || c[48 + t] != 16) abort();
    amx_ready = 1;
    memset(amx_tile, 0xFF, sizeof amx_tile);
}
static void _tile_release(void) { amx_need(); amx_ready = 0; }
static void _tile_zero(int t) { amx_need(); memset(amx_tile[t], 0, sizeof amx_tile[t]); }
static void _tile_loadd(int t, const void *base, size_t stride) { amx_need(); for (int r = 0; r < 16; r++) memcpy(amx_tile[t][r], (const char *)base + (size_t)r*stride, 64); }
static void _tile_stored(int t, void *base, size_t stride) { amx_need(); for (int r = 0; r < 16; r++) memcpy((char *)base + (size_t)r*stride, amx_tile[t][r], 64); }

// c[m][n] += sum over pairs q of a[m][q].low b[q][n].low + a[m][q].high b[q][n].high
static void _tile_dpbf16ps(int c, int a, int b) {
    amx_need();
    for (int m = 0; m < 16; m++)
        for (int n = 0; n < 16; n++) {
            float sum;
            memcpy(&sum, amx_tile[c][m] + 4*n, 4);
            for (int q = 0; q < 16; q++)
                for (int half = 0; half < 4; half += 2) sum += amx_bf16(amx_tile[a][m] + 4*q + half) * amx_bf16(amx_tile[b][q] + 4*n + half);
            memcpy(amx_tile[c][m] + 4*n, &sum, 4);
        }
}
