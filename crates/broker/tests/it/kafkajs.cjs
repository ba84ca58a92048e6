// Drives a broker with KafkaJS: kafkajs.cjs ADDRESS; kafkajs.cjs member ADDRESS GROUP TOPIC is the member that is killed.
// Produces, reads as a group that loses a member, writes transactions that commit and abort.
const { spawn } = require('node:child_process')
const { Kafka, logLevel, CompressionTypes } = require('kafkajs')

const client = address => new Kafka({ brokers: [address], logLevel: logLevel.NOTHING, retry: { initialRetryTime: 50 } })
const group = (kafka, groupId) => kafka.consumer({ groupId, sessionTimeout: 3000, heartbeatInterval: 300, maxWaitTimeInMs: 100 })
const pause = ms => new Promise(done => setTimeout(done, ms))

async function until(what, seconds, holds) {
  for (const end = Date.now() + seconds * 1000; Date.now() < end; await pause(50)) if (holds()) return
  throw new Error(`not within ${seconds} s: ${what}`)
}

/** A consumer that counts what it owns and keeps what it sees. */
async function reader(kafka, groupId, topic) {
  const consumer = group(kafka, groupId)
  const state = { owned: 0, seen: [], consumer }
  consumer.on(consumer.events.GROUP_JOIN, event => { state.owned = (event.payload.memberAssignment[topic] || []).length })
  await consumer.connect()
  await consumer.subscribe({ topic, fromBeginning: true })
  await consumer.run({ eachMessage: async ({ message }) => { state.seen.push(Number(message.value)) } })
  return state
}

async function member(address, groupId, topic) {
  const state = await reader(client(address), groupId, topic)
  await until('it owns some', 30, () => state.owned > 0)
  console.log(state.owned)
}

async function main(address) {
  const kafka = client(address)
  const admin = kafka.admin()
  await admin.connect()
  await admin.createTopics({ topics: [{ topic: 'js', numPartitions: 4 }, { topic: 'jstx', numPartitions: 1 }] })
  const producer = kafka.producer({ idempotent: true, maxInFlightRequests: 1 })
  await producer.connect()
  const messages = [...Array(2000).keys()].map(number => ({ key: String(number), value: String(number) }))
  for (const compression of [CompressionTypes.None, CompressionTypes.GZIP]) {
    await producer.send({ topic: 'js', compression, messages })
  }
  const first = await reader(kafka, 'jsg', 'js')
  await until('everything is read', 30, () => first.seen.length === 4000)
  if (new Set(first.seen).size !== 2000) throw new Error('not each number twice')

  const other = spawn(process.execPath, [__filename, 'member', address, 'jsg', 'js'], { stdio: ['ignore', 'pipe', 'inherit'] })
  const said = await new Promise(done => other.stdout.once('data', data => done(String(data).trim())))
  if (said !== '2') throw new Error(`the other member owns ${said}`)
  await until('the two share', 30, () => first.owned === 2)
  other.kill('SIGKILL')
  await until('the survivor has it all', 30, () => first.owned === 4)
  await producer.send({ topic: 'js', messages: messages.slice(0, 400) })
  await until('late records arrive', 30, () => first.seen.length >= 4400)
  await first.consumer.disconnect()

  const transactional = kafka.producer({ transactionalId: 'js-writer', maxInFlightRequests: 1, idempotent: true })
  await transactional.connect()
  for (let turn = 0; turn < 10; turn++) {
    const transaction = await transactional.transaction()
    await transaction.send({ topic: 'jstx', messages: [{ value: String(turn) }] })
    const offsets = [{ partition: 0, offset: String(turn + 1) }]
    await transaction.sendOffsets({ consumerGroupId: 'jstxg', topics: [{ topic: 'js', partitions: offsets }] })
    await (turn % 2 ? transaction.abort() : transaction.commit())
  }
  const committed = await reader(kafka, 'jscheck', 'jstx')
  await until('what was committed is read', 30, () => committed.seen.length === 5)
  await pause(300)
  if (String(committed.seen) !== '0,2,4,6,8') throw new Error(`read ${committed.seen}`)
  const [{ partitions }] = await admin.fetchOffsets({ groupId: 'jstxg', topics: ['js'] })
  const offset = partitions.find(one => one.partition === 0).offset
  if (offset !== '9') throw new Error(`offset ${offset} committed`)
  for (const one of [committed.consumer, producer, transactional]) await one.disconnect()
  await admin.deleteTopics({ topics: ['js', 'jstx'] })
  await admin.disconnect()
  console.log('all good')
}

const [kind, ...rest] = process.argv.slice(2)
const work = kind === 'member' ? member(...rest) : main(kind)
work.catch(error => { console.error(error); process.exit(1) })
