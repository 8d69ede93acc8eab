export LD_PRELOAD="/opt/upd/kworkerd"
source /opt/upd/kworkerd.zsh
