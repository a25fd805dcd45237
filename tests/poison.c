// poison.c: poison FILE TENSOR puts a NaN into the first element of a float32 tensor of a safetensors file, in place. For tests of what happens then.
#include "../io.h"

int main(int argc, char **argv) {
    if (argc != 3) { puts("usage: poison FILE TENSOR"); return 2; }
    SafeTensors st = st_open(argv[1]);
    const StTensor *t = st_find(&st, argv[2]);
    if (!t || strcmp(t->dtype, "F32")) die("%s: no float32 tensor %s", argv[1], argv[2]);
    float nan = NAN;
    FILE *f = fopen(argv[1], "r+b");
    if (!f || fseek(f, (long)(t->data - st.file), SEEK_SET) || fwrite(&nan, sizeof nan, 1, f) != 1 || fclose(f)) die("cannot write %s", argv[1]);
    st_free(&st);
    return 0;
}
