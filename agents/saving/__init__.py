"""What is kept of an agent.

agent_folder  an agent in a folder, which transformers can open
resume        what learning needs to go on exactly where it was
"""
