#!/usr/bin/env python3
"""bench_peer.py: what a plain PyTorch program reaches on the same processor. Optional: nothing else needs it, or PyTorch.

    python3 tests/bench_peer.py [--quick] [--threads N]         beside build/bench_kernels and build/bench_steps S T

Matrix products of the sizes of bench_kernels.c, then training steps of the sizes of bench_steps.c: the network of bd3lm.c (section 4) and its
loss (5) as one would write them first: attention computes all pairs of the doubled sequence under a dense mask, the last layer all rows, and the
output layer all noisy ones, where bd3lm.c skips what nobody attends to or predicts. That is part of what is compared.
Then training steps of the two planners of df.c, at the sizes of bench_df.sh.
Last, those of acdit.c (sections 3 and 4) on videos, at the sizes of bench_acdit.sh: again all pairs of the doubled sequence and all rows of the
last layer, where acdit.c leaves out the last clean block, and takes from the last layer only keys and values of the others.
"""
import argparse, os, sys, time
try:
    import torch
    from torch import nn
    import torch.nn.functional as F
except ImportError:
    print("PyTorch is not installed: no peer to compare with (pip install torch==2.13.0, CPU)")
    sys.exit(0)

# name, layers, width, heads, symbols, T, block, batch, steps: those of bench_steps.c
SIZES = [("S", 6, 384, 6, 256, 256, 16, 16, 3), ("T", 4, 192, 6, 64, 128, 4, 32, 8)]
PRODUCTS = [(8192, 384, 384), (8192, 384, 1536), (8192, 1536, 384), (2048, 2048, 2048)]     # rows, from, to
COND, FREQ, MLP = 128, 256, 4
LEVELS = 1000                                                           # of the planners and videos
ALPHA_BAR = torch.cumprod(1 - torch.linspace(1e-4, 0.02, LEVELS), 0)
FRAMES, NUMBERS, CLASSES = 4, 16, 5                                     # frames of a video, numbers of a token, kinds of motion
# name, layers, width, heads, tokens along an edge of a frame, blocks, batch, steps: those of bench_acdit.sh
VIDEOS = [("S", 6, 384, 6, 8, 4, 8, 3), ("T4", 4, 96, 3, 4, 4, 32, 12), ("T16", 4, 96, 3, 4, 16, 32, 12)]

def has_matrix_unit():
    return os.path.exists("/proc/cpuinfo") and "amx_bf16" in open("/proc/cpuinfo").read()

def doubled_mask(T, block):
    """(2T,2T), true where row i of [noisy | clean] sees column j: attends() of bd3lm.c"""
    i = torch.arange(2 * T)
    b, noisy = i % T // block, i < T
    own = (b[:, None] == b) & (noisy[:, None] == noisy)                 # each copy its own block
    return own | (b[:, None] > b) & ~noisy                              # and all the clean blocks before it

class Layer(nn.Module):
    def __init__(self, C, NH):
        super().__init__()
        self.NH = NH
        self.norm1, self.norm2 = nn.LayerNorm(C, bias=False), nn.LayerNorm(C, bias=False)
        self.qkv, self.out = nn.Linear(C, 3 * C, bias=False), nn.Linear(C, C, bias=False)
        self.mlp = nn.Sequential(nn.Linear(C, MLP * C), nn.GELU(approximate="tanh"), nn.Linear(MLP * C, C))
        self.ada = nn.Linear(COND, 6 * C)

    def forward(self, x, cond, mask, cos, sin):
        shift1, scale1, gate1, shift2, scale2, gate2 = self.ada(cond).chunk(6)
        B, S, C = x.shape
        q, k, v = self.qkv(self.norm1(x) * (1 + scale1) + shift1).view(B, S, 3, self.NH, C // self.NH).permute(2, 0, 3, 1, 4)
        a = F.scaled_dot_product_attention(rotate(q, cos, sin), rotate(k, cos, sin), v, attn_mask=mask)
        x = x + gate1 * self.out(a.transpose(1, 2).reshape(B, S, C))
        return x + gate2 * self.mlp(self.norm2(x) * (1 + scale2) + shift2)

def rotate(x, cos, sin):
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1).to(x.dtype)

class Net(nn.Module):
    def __init__(self, NL, C, NH, V, T, block):
        super().__init__()
        self.embedding = nn.Embedding(V, C)
        self.sigma = nn.Sequential(nn.Linear(FREQ, COND), nn.SiLU(), nn.Linear(COND, COND), nn.SiLU())
        self.layers = nn.ModuleList(Layer(C, NH) for _ in range(NL))
        self.norm, self.linear, self.ada = nn.LayerNorm(C, bias=False), nn.Linear(C, V), nn.Linear(COND, 2 * C)
        nn.init.uniform_(self.embedding.weight, -C ** -0.5, C ** -0.5)
        for zero in [self.linear, self.ada] + [y.ada for y in self.layers]:
            nn.init.zeros_(zero.weight), nn.init.zeros_(zero.bias)
        HS = C // NH
        angle = torch.arange(T).repeat(2)[:, None] * 10000.0 ** (-torch.arange(0, HS, 2) / HS)      # both copies of a token at one position
        for name, table in (("cos", angle.cos()), ("sin", angle.sin()), ("mask", doubled_mask(T, block)),
                            ("level0", (torch.arange(FREQ) < FREQ // 2).float())):                  # cos 0 = 1, sin 0 = 0
            self.register_buffer(name, table)

    def forward(self, ids):                                             # (B,2T) -> (B,T,V): only noisy rows predict
        x, cond = self.embedding(ids), self.sigma(self.level0)
        for layer in self.layers:
            x = layer(x, cond, self.mask, self.cos, self.sin)
        shift, scale = self.ada(cond).chunk(2)
        return self.linear(self.norm(x[:, :ids.shape[1] // 2]) * (1 + scale) + shift)

def bd3_loss(net, x, block, mask, dtype):
    """L_BD (Eq. 8): levels stratified over the batch, weight 1 / tau, the mean over all tokens; x (B,T), BOS at position 0"""
    B, T = x.shape
    n = B * (T // block)
    tau = 1e-3 + (1 - 1e-3) * (torch.rand(n) + torch.arange(n)) / n
    tau = tau.view(B, -1).repeat_interleave(block, dim=1)
    masked = torch.rand(B, T) <= tau
    masked[:, 0] = False
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        logits = net(torch.cat((x.masked_fill(masked, mask), x), dim=1))[masked].float()
    logits[:, mask] = -torch.inf                                        # SUBS: MASK is never predicted
    return (F.cross_entropy(logits, x[masked], reduction="none") / tau[masked]).sum() / (B * T)

def sinusoids(k, F):
    phase = k[..., None] * torch.exp(torch.arange(F // 2) * (-9.210340371976184 / (F // 2 - 1)))
    return torch.cat((phase.sin(), phase.cos()), dim=-1)

class Block(nn.Module):
    def __init__(self, C, OC):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(C, OC), nn.GELU(), nn.Linear(OC, OC))
        self.shortcut = nn.Linear(C, OC) if C != OC else nn.Identity()

    def forward(self, x):
        return F.gelu(self.shortcut(x) + self.mlp(x))

class Recurrent(nn.Module):
    """rnn_run() of df.c: a residual MLP, a GRU cell and a residual MLP, token after token"""
    def __init__(self, C, W, Z, M, N=16):
        super().__init__()
        def mlp(C):
            return nn.Sequential(*[Block(W if i else C, W) for i in range(M - 1)], nn.Linear(W, Z))
        self.time = nn.Sequential(nn.Linear(N, N), nn.GELU(), nn.Linear(N, N))
        self.before, self.gru, self.after, self.x_from_z, self.N = mlp(Z + C + N), nn.GRUCell(Z, Z), mlp(Z), nn.Linear(Z, C), N
        self.start = nn.Sequential(nn.Linear(4, 128), nn.ELU(), nn.Linear(128, 128), nn.ELU(), nn.Linear(128, Z))

    def forward(self, x, k):                                            # (B,T,C), levels (B,T)
        z, e, out = self.start(torch.zeros(len(x), 4)), self.time(sinusoids(k, self.N)), []
        for t in range(x.shape[1]):
            z = self.after(self.gru(self.before(torch.cat((z, x[:, t], e[:, t]), dim=-1)), z))
            out.append(z)
        return self.x_from_z(torch.stack(out, dim=1))

class Transformer(nn.Module):
    """transformer_run() of df.c, not causal: post-norm layers"""
    def __init__(self, C, d, NL, NH, T):
        super().__init__()
        self.init = nn.Sequential(nn.Linear(C + d // 2, d), nn.ReLU(), nn.Linear(d, d))
        self.layers = nn.ModuleList(nn.TransformerEncoderLayer(d, NH, 4 * d, dropout=0, batch_first=True) for _ in range(NL))
        self.out, self.d = nn.Linear(d, C), d
        self.register_buffer("position", sinusoids(torch.arange(T), d))

    def forward(self, x, k):
        h = self.init(torch.cat((x, sinusoids(k, self.d // 2)), dim=-1)) + self.position
        for layer in self.layers:
            h = layer(h)
        return self.out(h)

def df_loss(net, x, dtype):
    """a level for each token (Eq. 3.1), x0 predicted, every token of weight 1"""
    k = torch.randint(LEVELS, x.shape[:2])
    a = ALPHA_BAR[k][..., None]
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        prediction = net(a.sqrt() * x + (1 - a).sqrt() * torch.randn_like(x), k)
    return F.mse_loss(prediction.float(), x)

class BlockLayer(nn.Module):
    """a layer of acdit.c: noised blocks are modulated (adaLN-zero), clean ones pass as they are (shift and scale 0, gate 1)"""
    def __init__(self, C, NH):
        super().__init__()
        self.NH = NH
        self.norm1, self.norm2, self.q_norm, self.k_norm = (nn.RMSNorm(n, eps=1e-6) for n in (C, C, C // NH, C // NH))
        self.qkv, self.out = nn.Linear(C, 3 * C), nn.Linear(C, C)
        self.mlp = nn.Sequential(nn.Linear(C, MLP * C), nn.GELU(approximate="tanh"), nn.Linear(MLP * C, C))
        self.ada = nn.Linear(C, 6 * C)

    def forward(self, x, cond, mask, cos, sin):                         # x (B,2N,block,C), clean blocks first; cond (B,N,1,C)
        B, blocks, block, C = x.shape
        shift1, scale1, gate1, shift2, scale2, gate2 = (
            F.pad(m, (0, 0, 0, 0, blocks // 2, 0), value=clean) for m, clean in zip(self.ada(cond).chunk(6, dim=-1), (0, 0, 1, 0, 0, 1)))
        q, k, v = self.qkv(self.norm1(x) * (1 + scale1) + shift1).view(B, -1, 3, self.NH, C // self.NH).permute(2, 0, 3, 1, 4)
        a = F.scaled_dot_product_attention(rotate(self.q_norm(q.float()), cos, sin), rotate(self.k_norm(k.float()), cos, sin), v, attn_mask=mask)
        x = x + gate1 * self.out(a.transpose(1, 2).reshape(x.shape))
        return x + gate2 * self.mlp(self.norm2(x) * (1 + scale2) + shift2)

class BlockNet(nn.Module):
    """forward() of acdit.c for videos in N blocks"""
    def __init__(self, NL, C, NH, edge, N):
        super().__init__()
        self.embedding, self.label = nn.Linear(NUMBERS, C, bias=False), nn.Embedding(CLASSES + 1, C)
        self.time = nn.Sequential(nn.Linear(FREQ, C), nn.SiLU(), nn.Linear(C, C))
        self.layers = nn.ModuleList(BlockLayer(C, NH) for _ in range(NL))
        self.norm, self.linear, self.ada = nn.RMSNorm(C, eps=1e-6), nn.Linear(C, NUMBERS), nn.Linear(C, 2 * C)
        for zero in [self.linear, self.ada] + [y.ada for y in self.layers]:
            nn.init.zeros_(zero.weight), nn.init.zeros_(zero.bias)
        T, HS = FRAMES * edge * edge, C // NH
        places = torch.cartesian_prod(torch.arange(FRAMES), torch.arange(edge), torch.arange(edge)).T
        shares = HS // 4, HS * 3 // 8, HS * 3 // 8                      # of a head, that time, row and column turn
        angle = torch.cat([m[:, None] * 100.0 ** (-torch.arange(0, d, 2) / d) for m, d in zip(places, shares)], dim=1).repeat(2, 1)
        mask = doubled_mask(T, T // N).roll((T, T), (0, 1))             # here the clean half comes first
        for name, table in (("cos", angle.cos()), ("sin", angle.sin()), ("mask", mask)):
            self.register_buffer(name, table)

    def forward(self, x, k, label):                                     # (B,2N,block,NUMBERS), levels (B,N), (B) -> (B,N,block,NUMBERS)
        cond = F.silu(self.time(sinusoids(k, FREQ)) + self.label(label)[:, None])[:, :, None]       # frequencies of df.c: as much work
        x = self.embedding(x).float()                                   # products in bf16, sums in float32
        for layer in self.layers:
            x = layer(x, cond, self.mask, self.cos, self.sin)
        shift, scale = self.ada(cond).chunk(2, dim=-1)
        return self.linear(self.norm(x[:, k.shape[1]:]) * (1 + scale) + shift)

def acdit_loss(net, x, label, dtype):
    """a level for each block, the noise predicted (Eq. 3); x (B,N,block,NUMBERS)"""
    k, noise = torch.randint(LEVELS, x.shape[:2]), torch.randn_like(x)
    a = ALPHA_BAR[k][..., None, None]
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        prediction = net(torch.cat((x, a.sqrt() * x + (1 - a).sqrt() * noise), dim=1), k, label)
    return F.mse_loss(prediction.float(), noise)

def update(net, average, adamw, loss):
    adamw.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(net.parameters(), 1)
    adamw.step()
    with torch.no_grad():
        for mean, p in zip(average, net.parameters()):
            mean.lerp_(p, 1 - 0.9999)
    return loss.item()

def best(call, times, at_least=0.0):
    """seconds of the fastest call after one to warm up: of `times`, and of more until `at_least` seconds are spent"""
    call()
    spent = []
    while len(spent) < times or sum(spent) < at_least:
        start = time.perf_counter()
        call()
        spent.append(time.perf_counter() - start)
    return min(spent)

def product(N, C, OC, dtype, quick):
    x, w = (torch.rand(N, C) - 0.5).to(dtype), (torch.rand(OC, C) - 0.5).to(dtype)
    with torch.no_grad():
        s = best(lambda: F.linear(x, w), 3, 0.1 if quick else 0.5)
    print("%-58s %9.3f ms %8.1f GFLOP/s" % ("torch linear            rows %5d  %4d -> %4d" % (N, C, OC), s * 1e3, 2e-9 * N * C * OC / s), flush=True)

def train(name, NL, C, NH, symbols, T, block, B, steps, dtype, quick):
    mask, bos = symbols, symbols + 1
    net = Net(NL, C, NH, symbols + 2, T, block)
    average = [p.detach().clone() for p in net.parameters()]
    adamw = torch.optim.AdamW(net.parameters(), lr=1.5e-3, weight_decay=0, fused=True)

    def step():
        x = torch.randint(symbols, (B, T))
        x[:, 0] = bos
        return update(net, average, adamw, bd3_loss(net, x, block, mask, dtype))
    s = best(step, 1 if quick else steps)
    print("torch train %-4s %7.0f tokens/s | %d parameters" % (name, B * T / s, sum(p.numel() for p in net.parameters())), flush=True)

def train_planner(name, net, B, T, C, dtype, quick):
    average = [p.detach().clone() for p in net.parameters()]
    adamw = torch.optim.AdamW(net.parameters(), lr=5e-4, weight_decay=1e-4, fused=True)
    s = best(lambda: update(net, average, adamw, df_loss(net, torch.randn(B, T, C), dtype)), 1 if quick else 6)
    print("torch train df %-11s %5.0f sequences/s | %d parameters" % (name, B / s, sum(p.numel() for p in net.parameters())), flush=True)

def train_video(name, NL, C, NH, edge, N, B, steps, dtype, quick):
    net = BlockNet(NL, C, NH, edge, N)
    average = [p.detach().clone() for p in net.parameters()]
    adamw = torch.optim.AdamW(net.parameters(), lr=5e-3, betas=(0.9, 0.95), weight_decay=0, fused=True)

    def step():
        label = torch.where(torch.rand(B) < 0.1, CLASSES, torch.randint(CLASSES, (B,)))     # some are hidden, for guidance
        return update(net, average, adamw, acdit_loss(net, torch.randn(B, N, FRAMES * edge * edge // N, NUMBERS), label, dtype))
    s = best(step, 1 if quick else steps)
    print("torch train acdit %-5s %5.1f pictures/s | %d parameters" % (name, B / s, sum(p.numel() for p in net.parameters())), flush=True)

def main():
    parser = argparse.ArgumentParser(description="matrix products and training steps in plain PyTorch, to be read beside make bench")
    parser.add_argument("--quick", action="store_true", help="one step of each size")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), metavar="N", help="default: as many as PyTorch takes by itself")
    args = parser.parse_args()
    if args.threads < 1:
        parser.error("--threads %d: 1 or more" % args.threads)
    torch.set_num_threads(args.threads)
    torch.manual_seed(1)
    for dtype, name in ((torch.float32, "fp32"), (torch.bfloat16, "bf16")):
        if dtype == torch.bfloat16 and not has_matrix_unit():
            print("bf16: not measured, this processor has no AMX tiles")
            break
        print("%s, %d threads, PyTorch %s:" % (name, args.threads, torch.__version__), flush=True)
        for sizes in PRODUCTS:
            product(*sizes, dtype, args.quick)
        for sizes in SIZES:
            train(*sizes, dtype, args.quick)
        train_planner("rnn", Recurrent(60, 512, 128, 4), 256, 30, 60, dtype, args.quick)
        train_planner("transformer", Transformer(20, 128, 12, 4, 61), 64, 61, 20, dtype, args.quick)
        for sizes in VIDEOS:
            train_video(*sizes, dtype, args.quick)

if __name__ == "__main__":
    main()
