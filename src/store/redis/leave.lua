-- A replica gives everything up and counts as alive no more.
forget(ARGV[1])
tell_others(ARGV[1], 'changed')
return 1
