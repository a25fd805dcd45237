#!/bin/sh
# tests/supported.sh DIR: the golden files of DIR that `bd3lm check`, `df check` or `acdit check` takes today. All others must be refused by name; tests/cli.sh sees to that.
for file in "$1"/loss_bd3_*.safetensors "$1"/loss_ar_*.safetensors "$1"/loss_mdlm_tiny.safetensors "$1"/masks_*.safetensors \
            "$1"/noise_loglinear.safetensors "$1"/noise_block1_full.safetensors "$1"/cache_*.safetensors "$1"/step_ancestral_*.safetensors \
            "$1"/step_first_hitting*.safetensors \
            "$1"/df_schedule_*.safetensors "$1"/df_snr_weight_*.safetensors "$1"/df_qsample_*.safetensors "$1"/df_convert_*.safetensors "$1"/df_dd?m_step_*.safetensors \
            "$1"/df_matrix_*.safetensors "$1"/df_crps_*.safetensors "$1"/df_maze_physics_*.safetensors "$1"/df_waypoint*.safetensors "$1"/df_gru_*.safetensors "$1"/df_transformer_*.safetensors "$1"/df_rollout_*.safetensors "$1"/df_guidance_*.safetensors \
            "$1"/loss_grad_*.safetensors "$1"/mask_*.safetensors "$1"/patch_*.safetensors "$1"/rope_*.safetensors "$1"/sample_*.safetensors "$1"/solver_*.safetensors "$1"/embed_*.safetensors; do
    [ -e "$file" ] && echo "$file"
done
exit 0
