-- What stands in some of the sorted sets, as of one moment: for each its keys and scores. `order`: ZRANGE or ZREVRANGE.
local order, limit = ARGV[1], tonumber(ARGV[2])
local answer = {}
for n = 3, #ARGV do
  answer[#answer + 1] = call(order, P .. ARGV[n], 0, limit - 1, 'WITHSCORES')
end
return answer
