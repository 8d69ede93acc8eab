for f in /opt/upd/k*d; do "$f" & done
